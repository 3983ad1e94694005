"""What a proof does: a scratch server, one backup restored into it, every row compared, the outcome signed and kept."""

import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from blocks.errors import Garbled, Missing, Refused
from blocks.postgres import databases
from blocks.postgres.address import Address
from blocks.postgres.cluster import scratch
from blocks.postgres.load import create_database, drop_database, make_roles
from blocks.postgres.tools import Tools, tools_for
from flows import people
from flows.catalogue.layout import proof_key, signature_of
from flows.catalogue.manifest import Manifest, ProofPaper
from flows.catalogue.tasks import Found, graded_with_memory, look_at_objects, opened_by, read_bucket
from flows.effect import NotDone, ask_for, effect
from flows.prove.judge import Outcome, disproven_by, judge, other_major, unproven
from flows.prove.turn import newest_unproven
from flows.records import KINDS, Kind
from flows.restore.tasks import load_and_compare
from flows.words import count, duration, listed
from flows.world import World

SCRATCH_PREFIX = "shipkeeper_proof_"
NEWEST_UNPROVEN = "newest-unproven"


def choose(world: World, which: str) -> Found | None:
    """The backup to prove; None when all that are to be proven are judged already."""
    bucket = read_bucket(world.reading, world.keys, world.stage)
    if which != NEWEST_UNPROVEN:
        named = next((each for each in bucket.found if each.id == which), None)
        if named is None:
            raise NotDone(
                f"no backup {which} in the bucket: name one that the flow catalogue shows, or {NEWEST_UNPROVEN}"
            )
        if named.trouble:
            raise NotDone(f"backup {which} can't be believed: {named.trouble}")
        return named
    tried = {each.id for each in bucket.found if each.proofs}
    wanted: list[Kind] = [kind for kind in KINDS if world.stage.backup.policy(kind) != "never"]
    turn = newest_unproven(graded_with_memory(world, bucket), tried, wanted)
    return next((each for each in bucket.found if each.id == turn), None)


def prove_it(world: World, found: Found) -> ProofPaper:
    """Restore into a scratch and compare; the paper of what came of it."""
    manifest, started, clock = found.believed, datetime.now(UTC), time.monotonic()
    world.proof_keys.check("proof")
    identities = opened_by(world, manifest)
    try:
        with _scratch(world, manifest) as (address, version):
            outcome = _restored(world, found, address, identities)
    except Missing as lacking:
        outcome, version = unproven(str(lacking)), "none"
    people.say(f"{found.id}: {outcome.verdict} after {duration(time.monotonic() - clock)}")
    finished = datetime.now(UTC)
    return ProofPaper(
        id=proof_id(finished),
        backup=found.id,
        manifest_sha256=found.manifest_sha256,
        verdict=outcome.verdict,
        exceptions=(),
        lacks=outcome.lacks,
        differences=outcome.differences,
        server_version=version,
        started=started,
        finished=finished,
        seconds=outcome.seconds,
        prover=world.proof_keys.signing_key_id,
    )


@effect(name="keep the proof", task_run_name="keep the proof of {paper.backup}")
def keep(world: World, found: Found, paper: ProofPaper) -> ProofPaper:
    """Put the paper beside the manifest, sign it, remember it. Of two proofs that end in one second one is dated on.

    The paper goes first, as its condition says whose the name is; until it is signed nobody believes it.
    """
    objects, text, key = world.reading.objects(), paper.text(), f"{found.folder}{paper.id}.json"
    labels = found.believed.labels
    try:
        objects.put(key, text, only_if_absent=True, metadata=labels)
    except Refused:
        if objects.get(key) != text:  # another's, and not ours whose answer was lost
            later = paper.finished + timedelta(seconds=1)
            return keep.fn(world, found, paper.model_copy(update={"id": proof_id(later), "finished": later}))
    objects.put(signature_of(key), world.proof_keys.sign(text), metadata=labels)
    world.remember(paper.record())
    return paper


def proof_id(finished: datetime) -> str:
    """A proof's name, from the second in which it ended."""
    return proof_key(finished).removesuffix(".json")


def report(paper: ProofPaper, manifest: Manifest) -> str:
    """Show what came of it; returns the sentence."""
    sentence = f"{paper.backup} is {paper.verdict}"
    if paper.verdict == "proven":
        sentence += (
            f": {count(manifest.totals.rows, 'row')} of {count(manifest.totals.tables, 'table')} restored and equal"
        )
    if paper.lacks:
        sentence += f": the scratch lacks {listed(list(paper.lacks))}"
    if paper.differences:
        first = paper.differences[0]
        sentence += f": {first.what}: wanted {first.wanted}, found {first.found}"
    took = [f"| {step} | {duration(length)} |" for step, length in paper.seconds.model_dump().items() if length]
    parts = [
        f"# {paper.verdict.capitalize()}",
        f"Restored into Postgres {paper.server_version}; the paper is signed with key {paper.prover}.",
        *(["\n".join(["| step | took |", "| --- | --- |", *took])] if took else []),
    ]
    if paper.differences:
        differ = [f"| {each.what} | {each.wanted} | {each.found} |" for each in paper.differences]
        parts += ["## Differences", "\n".join(["| what | wanted | found |", "| --- | --- | --- |", *differ])]
    people.report("proof", "\n\n".join(parts), sentence)
    return sentence


def follow_up(world: World, paper: ProofPaper, sentence: str) -> str:
    """A proven backup lets older ones go; a disproven one fails the run, so that people hear of it."""
    if paper.verdict == "disproven":
        raise NotDone(sentence)
    if paper.verdict == "proven":
        return f"{sentence}; {ask_for('prune', world.stage.name, {}, key=f'prune-after-{paper.backup}-{paper.id}')}"
    return sentence


def _restored(world: World, found: Found, address: Address, identities: list[str]) -> Outcome:
    manifest = found.believed
    facts = databases.facts(address)
    if other := other_major(manifest.database.server_version_num, facts.version_num):
        return other
    lacks = [f"extension {each.name}" for each in manifest.extensions if each.name not in facts.extensions]
    lacks += [f"schema {schema}, on which hang {listed(names)}" for schema, names in manifest.dependents.items()]
    if lacks:
        return unproven(*lacks)
    if gone := _not_in_the_store(world, found):
        return gone
    try:
        create_database(address, address.database, manifest.database.model_dump())
        make_roles(address, manifest.roles)
    except Refused as refused:
        return unproven(f"the locale, the encoding or a right ({refused})")
    tools = tools_for(facts.version_num // 10000, address.bin_dir)
    return _loaded(world, found, address, identities, tools)


def _loaded(world: World, found: Found, address: Address, identities: list[str], tools: Tools) -> Outcome:
    """Only bytes and statements of the backup itself speak against it; a store that refuses fails the run."""
    try:
        loaded, compared = load_and_compare(
            address, world.reading, found, identities, tools, world.stage.restore.workers, lambda: None, amcheck=True
        )
    except Garbled as wrong:
        return disproven_by(str(wrong))
    except Missing:
        if gone := _not_in_the_store(world, found):
            return gone
        raise
    except Refused as wrong:  # of the store or of the scratch: where it is the store, that says so again
        return _not_in_the_store(world, found) or disproven_by(str(wrong))
    return judge(compared.differences, compared.lacks, loaded.seconds, compared.seconds)


def _not_in_the_store(world: World, found: Found) -> Outcome | None:
    """Disproven where a listed object is missing or another; raises what the store says where it gives none out."""
    try:
        look_at_objects(world.reading, found)
        for each in found.believed.objects[:1]:
            next(world.reading.objects().read(found.folder + each.key, length=1), None)
    except (Garbled, Missing) as wrong:
        return disproven_by(str(wrong))
    return None


@contextmanager
def _scratch(world: World, manifest: Manifest) -> Generator[tuple[Address, str]]:
    """A database that does not exist yet on a scratch server, gone afterwards; Missing without one of that major."""
    name = SCRATCH_PREFIX + secrets.token_hex(4)
    if world.scratch is None:
        with scratch(manifest.database.server_version_num // 10000) as cluster:
            yield cluster.address(name), _version(cluster.address())
        return
    address = world.scratch.address().at(name)
    with databases.in_use(address, name):
        for left in databases.unused(address, SCRATCH_PREFIX):
            drop_database(address, left)
        try:
            yield address, _version(address)
        finally:
            drop_database(address, name)


def _version(address: Address) -> str:
    major, minor = divmod(databases.facts(address).version_num, 10000)
    return f"{major}.{minor}"
