"""What a backup looks at and does before its commit: the survey, the dump, the record of a failure, the report."""

import hashlib
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from blocks.errors import BlockError, Missing, Refused, Unreachable
from blocks.keys import BackupKeys
from blocks.postgres.dump import Dumped, Progress, dump
from blocks.postgres.server import PostgresServer
from blocks.postgres.snapshot import Held, Survey, hold, survey
from blocks.postgres.tools import Tools, tools_for, version_of
from blocks.storage.block import BackupStore
from blocks.stream import ZSTD_VERSION
from flows import people
from flows.backup.compose import compose
from flows.backup.plan import BackupPlan, Remembered, plan_backup
from flows.backup.policy import wants_proof
from flows.backup.report import report_page
from flows.backup.steps import CommitPlan, commit, stamp
from flows.catalogue.layout import home_of
from flows.catalogue.manifest import Manifest, labels
from flows.catalogue.record import record_of
from flows.effect import NotDone, ask_for, effect
from flows.ledger import Fenced, carry_out_alone
from flows.records import ID_ALPHABET, Backup, Kind, backup_id
from flows.redact import hide
from flows.stage import Stage
from flows.words import count, size
from flows.world import TOLD_BY_THE_LEDGER, World

WORTH_SAYING = 0.02  # of the whole: before that the time left is a guess of a guess
SHIPKEEPER = "0.1.0"  # as in pyproject.toml, kept equal by a test; the checkout is not an installed distribution


@dataclass(frozen=True)
class Taken:
    """A finished dump that nobody believes yet: its manifest is not committed."""

    manifest: Manifest
    folder: str
    seconds: dict[str, float]


@effect(name="look at the database")
def look(server: PostgresServer, stage: Stage) -> Survey:
    """What is in the database, and what a backup would stumble over."""
    rules = stage.database
    return survey(
        server.direct(),
        exclude_schemas=rules.exclude_schemas,
        exclude_data=rules.exclude_data,
        provider_schemas=rules.provider_schemas,
    )


def show_plan(world: World, kind: Kind) -> BackupPlan:
    """Look, and show the plan, with what the ledger knows; a silent ledger is part of it, not an error."""
    seen = look(world.database, world.stage)
    plan = plan_backup(world.stage, kind, asdict(seen), _remembered(world), _tools_trouble(world.database, seen.major))
    people.report("backup-plan", plan.markdown, plan.sentence)
    return plan


def insist(plan: BackupPlan, keys: BackupKeys) -> None:
    """Stop here when the plan says that something stands in the way, or nothing here could sign the manifest."""
    if plan.refusals:
        raise NotDone(f"no backup of {plan.database} was begun: {'; '.join(plan.refusals)}")
    if keys.signing_key is None:
        raise NotDone(f"no backup of {plan.database} was begun: the backup keys here hold no signing key")
    try:
        keys.check("backup")
    except Refused as refused:  # found after the dump, its manifest would lie there and be believed by nobody
        raise NotDone(f"no backup of {plan.database} was begun: {refused}") from None


@effect(name="dump", task_run_name="dump {plan.database}", retries=0)
def take(server: PostgresServer, store: BackupStore, keys: BackupKeys, stage: Stage, plan: BackupPlan) -> Taken:
    """Dump everything from one snapshot into the store; orphans without a manifest are all that a failure leaves."""
    started, clock = datetime.now(UTC), time.monotonic()
    rules, address = stage.database, server.address()
    with hold(
        address,
        exclude_schemas=rules.exclude_schemas,
        exclude_data=rules.exclude_data,
        provider_schemas=rules.provider_schemas,
        lock_wait_s=rules.lock_wait.total_seconds(),
    ) as held:
        held_after = time.monotonic() - clock
        backup = backup_id(held.snapshot.time, plan.kind, "".join(secrets.choice(ID_ALPHABET) for _ in range(6)))
        tools = tools_for(held.survey.major, address.bin_dir)
        dumped = dump(
            held,
            store.place(),
            home_of(stage).of(backup),
            keys.recipients,
            tools=tools,
            level=stage.backup.level,
            workers=stage.backup.workers,
            metadata=labels(backup, held.snapshot.time, plan.service),
            storage_class=store.class_of(frequent=plan.kind == "frequent"),
            lock_wait_s=rules.lock_wait.total_seconds(),
            progress=Shown(people.Progress("backup-progress", f"Progress of {backup}")),
            watch=Limit(clock, rules.snapshot_limit.total_seconds()),
        )
        manifest = _manifest(
            stage, store, keys, plan, backup=backup, held=held, dumped=dumped, tools=tools, started=started
        )
    seconds = {"snapshot": held_after, "dump": dumped.seconds}
    return Taken(manifest, home_of(stage).of(backup), seconds)


def keep(world: World, taken: Taken) -> Backup:
    """Commit the manifest (through the ledger, unless the ledger is what is gone) and remember the backup."""
    plan = CommitPlan(
        stage=world.stage.name,
        backup=taken.manifest.id,
        folder=taken.folder,
        manifest=taken.manifest.text().decode(),
    )
    try:
        operation = world.carry_out(commit, plan, key=f"commit {plan.backup}").operation
    except (Unreachable, Missing, Refused) as unusable:
        if isinstance(unusable, TOLD_BY_THE_LEDGER):
            raise
        carry_out_alone(commit, plan, world)  # what was the store's refusal it says again
        people.say(f"committed without the ledger ({unusable}); reconcile will record it")
        operation = stamp(world, plan)
    record = _record(taken, operation)
    world.remember(record)
    return record


@contextmanager
def failure_recorded(world: World, kind: Kind) -> Generator[None]:
    """Whatever ends the backup inside, a cancel too, is remembered with its cause; what was taken over goes on."""
    started = datetime.now(UTC)
    try:
        yield
    except Fenced:
        raise
    except BaseException as error:
        _remember_failure(world, kind, started, error)
        raise


def ask_for_proof(world: World, kept: Backup) -> str:
    """Ask for the proof when the stage's policy wants one, and remember that only when a run was asked for."""
    verdict = wants_proof(kept, _remembered(world).history, world.stage.backup.policy(kept.kind))
    if not verdict.go:
        return f"not proven: {verdict.reason}"
    asked = ask_for("prove", world.stage.name, {"which": kept.id}, key=f"prove-{kept.id}")
    if asked.run and kept.operation is not None:
        world.remember(kept.model_copy(update={"proof_asked_at": datetime.now(UTC)}))
    return str(asked)


def report(world: World, plan: BackupPlan, taken: Taken, kept: Backup, proof: str) -> str:
    """Show the page for people, with the last ones beside it; returns the sentence."""
    known = _remembered(world).history
    last = [b for b in known if b.state == "complete" and b.id != kept.id][:11]
    page = report_page(plan, taken.manifest, [*reversed(last), kept], world.stage.retention, proof)
    stored = f"{size(kept.stored_bytes)} stored"
    people.report("backup-report", page, f"{kept.id}: {count(kept.tables, 'table')}, {stored}")
    return f"{kept.id}: {count(kept.rows, 'row')} of {count(kept.tables, 'table')}, {stored}; {proof}"


def _remembered(world: World) -> Remembered:
    scope = f"{world.stage.name}/database/{world.stage.database.name}"
    try:
        backups = sorted(world.ledger.backups(), key=lambda b: b.at, reverse=True)
        return Remembered(backups, [str(o) for o in world.ledger.open() if scope in o.scopes])
    except BlockError as silent:
        return Remembered(trouble=str(silent))


def _tools_trouble(server: PostgresServer, major: int) -> str | None:
    """Asked before any table is locked: a server newer than all client tools can't be dumped."""
    try:
        tools_for(major, server.address().bin_dir)
    except (Missing, Refused) as lacking:
        return str(lacking)
    return None


class Shown:
    """Turns the dump's progress into the bar and the line that people watch."""

    def __init__(self, bar: people.Progress) -> None:
        self._bar = bar

    def __call__(self, now: Progress) -> None:
        """Show it."""
        fraction = min(now.plain_bytes / now.estimate_bytes, 0.99) if now.estimate_bytes else 0.5
        if now.tables and now.tables_done == now.tables:
            fraction = 1.0
        done = f"{size(now.plain_bytes)} read, {now.tables_done} of {count(now.tables, 'table')}"
        left = f", about {now.seconds * (1 - fraction) / fraction:.0f} s left" if WORTH_SAYING < fraction < 1 else ""
        self._bar.show(fraction, f"{done}, {size(now.bytes_per_s)}/s{left}")


@dataclass(frozen=True)
class Limit:
    """How long a snapshot may hold back vacuum and migrations."""

    since: float
    limit_s: float

    def __call__(self) -> None:
        """Raises NotDone past the limit."""
        if time.monotonic() - self.since > self.limit_s:
            raise NotDone(
                f"the snapshot is older than {self.limit_s:.0f} s (database.snapshot_limit): it holds back vacuum and"
                " migrations; take the backup at a quieter time, or raise the limit"
            )


def _manifest(  # noqa: PLR0913 - all that a manifest is made of, called once
    stage: Stage,
    store: BackupStore,
    keys: BackupKeys,
    plan: BackupPlan,
    *,
    backup: str,
    held: Held,
    dumped: Dumped,
    tools: Tools,
    started: datetime,
) -> Manifest:
    identity = {
        "id": backup,
        "kind": plan.kind,
        "service": plan.service,
        "stage": stage.name,
        "prefix": home_of(stage).full(store.prefix, backup),
        "tools": {
            "shipkeeper": SHIPKEEPER,
            "pg_dump": version_of(tools.bin / "pg_dump") or str(tools.major),
            "age": f"pyrage {version('pyrage')}",
            "zstd": f"level {stage.backup.level}, {ZSTD_VERSION}",
        },
        "recipients": tuple(keys.recipients),
        "signing_key": keys.signing_key_id,
    }
    seen = held.survey
    beside = {
        "roles": seen.roles,
        "policy_roles": seen.policy_roles,
        "dependents": seen.dependents,
        "settings": seen.settings,
        "left_out": seen.left_out,
        "snapshot": held.snapshot.to_json(),
    }
    return compose(identity, dumped.contents.to_json(), beside, started=started, finished=datetime.now(UTC))


def _record(taken: Taken, operation: int | None) -> Backup:
    manifest = taken.manifest.model_copy(update={"operation": operation})
    return record_of(manifest, hashlib.sha256(manifest.text()).hexdigest(), taken.seconds)


def _remember_failure(world: World, kind: Kind, started: datetime, error: BaseException) -> None:
    failed = Backup(
        id=backup_id(started, kind, "".join(secrets.choice(ID_ALPHABET) for _ in range(6))),
        stage=world.stage.name,
        service=world.stage.service.name,
        database=world.stage.database.name,
        kind=kind,
        state="failed",
        started=started,
        finished=datetime.now(UTC),
        error=hide(str(error) or type(error).__name__),
    )
    try:
        world.remember(failed)
    except Exception as other:  # noqa: BLE001 - what ended the backup is raised, not this
        people.say(f"the failure was not recorded: {type(other).__name__}: {other}")
