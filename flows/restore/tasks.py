"""What a restore looks at, and the plain work between its journalled steps: a database filled and compared."""

from collections.abc import Callable, Sequence

from blocks.errors import BlockError, Garbled
from blocks.postgres import databases
from blocks.postgres.address import Address
from blocks.postgres.contents import Contents
from blocks.postgres.dump import Progress
from blocks.postgres.load import Compared, Loaded, crew_for, load, read_back
from blocks.postgres.server import PostgresServer
from blocks.postgres.tools import Tools, tools_for
from blocks.storage.block import BackupStore
from flows import people
from flows.catalogue.choose import LATEST_PROVEN, choose
from flows.catalogue.manifest import Manifest
from flows.catalogue.tasks import Found, graded_with_memory, look_at_objects, opened_by, read_bucket, read_one
from flows.effect import NotDone, effect
from flows.ledger import Entry
from flows.records import Proof
from flows.restore.plan import Chosen, Names, RestorePlan, Target, mark_of, plan_restore
from flows.words import count, listed, size
from flows.world import World


def find(world: World, which: str, run: str) -> Chosen:
    """The backup that `which` means, believed and graded; NotDone in one sentence when there is none.

    A run that was suspended for its approval starts again: it means the backup that it restored, not a newer one.
    """
    bucket = read_bucket(world.reading, world.reading_keys, world.stage)
    choice = choose(_restored_already(world, run) or which, graded_with_memory(world, bucket))
    if choice.backup is None:
        doubtful = [f"{each.id}: {each.trouble}" for each in bucket.unreadable if which in {each.id, LATEST_PROVEN}]
        doubts = f"; not believable is {listed(doubtful)}" if doubtful else ""
        raise NotDone(f"{choice.reason}{doubts}")
    people.say(choice.reason)
    chosen = choice.backup
    found = next(each for each in bucket.found if each.id == chosen.id)
    look_at_objects(world.reading, found)
    opened_by(world, found.believed)
    return Chosen(found.believed, found.manifest_sha256, found.folder, (chosen.grade, chosen.reason))


@effect(name="look at the target")
def look_at_target(server: PostgresServer, manifest: Manifest, swap: str, new: str, mark: str | None) -> Target:
    """What the server has and what its role may do there."""
    address = server.address()
    facts = databases.facts(address)
    wanted = manifest.database.server_version_num // 10000
    can_rename = databases.refusal_to_rename(address, swap) if swap else None
    return Target(
        server=address.host if address.host.startswith("/") else f"{address.host}:{address.port}",
        version_num=facts.version_num,
        databases=facts.databases,
        ours=new in facts.databases and mark is not None and databases.mark(address, new) == mark,
        can_create=facts.can_create,
        can_rename=can_rename,
        cant_set=tuple(databases.settings_refused(address, swap)) if swap and can_rename is None else (),
        extensions=facts.extensions,
        roles=facts.roles,
        collation_version=facts.collation_version,
        free_bytes=facts.free_bytes,
        client_major=tools_for(max(wanted, facts.version_num // 10000), address.bin_dir).major,
    )


def make_plan(world: World, chosen: Chosen, *, into: str, swap: str, key: str) -> RestorePlan:
    """The plan of a restore: which backup, into what, what is missing there."""
    manifest = chosen.manifest
    names = Names.of(manifest, into, swap, key)
    server = world.server(names.server_block) if names.server_block else world.database
    known = _known_as_ours(world, key, manifest.id)
    target = look_at_target(server, manifest, swap, names.new, known)
    return plan_restore(chosen, names, target, _rates(world))


def look_again(world: World, chosen: Chosen, *, into: str, swap: str, key: str) -> RestorePlan:
    """The plan once more, while its scope is held: another restore may have made the new database meanwhile."""
    plan = make_plan(world, chosen, into=into, swap=swap, key=key)
    insist(plan)
    return plan


def restore_key(run: str, backup: str) -> str:
    """The key of a restore's operation: the same for a run that was suspended and starts again."""
    return f"{run}/restore/{backup}"


def insist(plan: RestorePlan) -> None:
    """Stop here when the plan says that something stands in the way."""
    if plan.refusals:
        raise NotDone(f"nothing was restored: {'; '.join(plan.refusals)}")


def fill(world: World, plan: RestorePlan, still: Callable[[], None], application_name: str) -> None:
    """Load the new database and compare it with the manifest; NotDone with the first difference."""
    found = read_one(world.reading, world.reading_keys, world.stage, plan.backup)
    if found.manifest_sha256 != plan.manifest_sha256:
        raise Garbled(f"the manifest of {plan.backup} is not the one of the plan: somebody replaced it")
    manifest = found.believed
    server = world.server(plan.server_block) if plan.server_block else world.database
    address = server.address().at(plan.new)
    with address.at(databases.MAINTENANCE).connect() as connection:
        major = connection.info.server_version // 10000
    tools = tools_for(max(major, manifest.database.server_version_num // 10000), address.bin_dir)
    identities = opened_by(world, manifest)
    loaded, compared = load_and_compare(
        address, world.reading, found, identities, tools, world.stage.restore.workers, still, application_name
    )
    people.say(f"{count(loaded.rows, 'row')} of {count(loaded.tables, 'table')} loaded and compared")
    refuse_differences(plan.backup, compared)


@effect(name="dress like the live one", task_run_name="dress {plan.new} like {plan.swap}")
def dress(world: World, plan: RestorePlan) -> list[str]:
    """Give the new database the live one's settings, rights, owner and connection limit; their names are returned."""
    server = world.server(plan.server_block) if plan.server_block else world.database
    return databases.dress_like(server.address(), plan.new, plan.swap)


def report(plan: RestorePlan, sentence: str, dressed: Sequence[str] = ()) -> str:
    """Show how it ended; returns the sentence."""
    parts = [
        "# Restored and swapped in" if plan.swap else "# Restored",
        f"State of {plan.kept_until}: {count(plan.tables, 'table')}, {count(plan.rows, 'row')}, all compared.",
    ]
    if dressed:
        parts += ["## Taken over from the old one", "\n".join(f"- {each}" for each in dressed)]
    if plan.swap:
        parts += [
            "## Left to do",
            f"When nobody misses {plan.old} any more, drop it by hand: `drop database {plan.old}`.",
        ]
    people.report("restore-report", "\n\n".join(parts), sentence)
    return sentence


@effect(name="load and compare", task_run_name="load and compare {found.id}", retries=0)
def load_and_compare(  # noqa: PLR0913, PLR0917 - what a crew needs, handed on once
    address: Address,
    store: BackupStore,
    found: Found,
    identities: Sequence[str],
    tools: Tools,
    workers: int,
    still: Callable[[], None],
    application_name: str = "shipkeeper",
    *,
    amcheck: bool = False,
) -> tuple[Loaded, Compared]:
    """Fill an empty database of ours and read every table back."""
    contents = Contents.of(found.believed.model_dump(mode="json", by_alias=True))
    bar = people.Progress("restore-progress", f"Loading {found.id} into {address.database}")
    crew = crew_for(
        address, contents, store.place(), found.folder, identities,
        tools=tools, workers=workers, application_name=application_name,
    )  # fmt: skip
    with crew:
        loaded = load(
            address, contents, crew,
            parallel=workers, application_name=application_name, progress=_shown(bar, "loaded", 0.0), watch=still,
        )  # fmt: skip
        compared = read_back(contents, crew, amcheck=amcheck, progress=_shown(bar, "read back", 0.5), watch=still)
    bar.show(1.0, f"{count(compared.tables, 'table')} loaded and read back")
    return loaded, compared


def refuse_differences(backup: str, compared: Compared) -> None:
    """NotDone naming the first differences, when there is a grave one."""
    grave = [each for each in compared.differences if each.grave]
    if grave:
        named = "; ".join(f"{each.what}: wanted {each.wanted}, found {each.found}" for each in grave[:3])
        raise NotDone(f"the restored database is not what {backup} says ({count(len(grave), 'difference')}): {named}")


def proof_rates(proofs: Sequence[Proof], stored_bytes: dict[str, int]) -> list[float]:
    """Stored bytes a second of the last proofs, which load and compare as a restore does."""
    return [
        stored_bytes[proof.backup] / took
        for proof in proofs[-10:]
        if proof.backup in stored_bytes and (took := sum(proof.seconds.values())) > 0
    ]


def _rates(world: World) -> list[float]:
    try:
        sizes = {each.id: each.stored_bytes for each in world.ledger.backups()}
        return proof_rates(world.ledger.proofs(), sizes)
    except BlockError:
        return []


def _restored_already(world: World, run: str) -> str | None:
    """The backup that this very run restored before it was suspended for its approval."""
    done = _settled_of(world, run)
    return done[0].key.rpartition("/")[2] if done else None


def _known_as_ours(world: World, run: str, backup: str) -> str | None:
    """The mark that this very run left on its new database."""
    done = [each for each in _settled_of(world, run) if each.key == restore_key(run, backup)]
    return mark_of(backup, done[0].id) if done else None


def _settled_of(world: World, run: str) -> list[Entry]:
    try:
        return [each for each in world.ledger.settled(restore_key(run, "")) if each.state == "done"]
    except BlockError:
        return []


def _shown(bar: people.Progress, what: str, base: float) -> Callable[[Progress], None]:
    def show(now: Progress) -> None:
        share = now.plain_bytes / now.estimate_bytes if now.estimate_bytes else 1.0
        done = f"{now.tables_done} of {count(now.tables, 'table')}"
        bar.show(min(base + share / 2, 0.99), f"{size(now.plain_bytes)} {what}, {done}, {size(now.bytes_per_s)}/s")

    return show
