"""All that can be known about a stage without a Prefect server: from the repository, the environment, the systems.

Nothing is changed. Every line is `ok`, `note` (somebody should know), or `problem` (what was promised cannot be kept).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from prefect.blocks.core import Block

from blocks.errors import BlockError, Missing
from blocks.keys import BackupKeys, RestoreKey
from blocks.postgres import databases
from blocks.postgres.server import PostgresServer
from blocks.storage.block import BackupStore, Purpose
from deployments.declared import DeclarationError, declared
from deployments.encryption import warning
from deployments.objectives import keeps_rpo
from flows.backup.plan import Remembered, plan_backup
from flows.backup.tasks import look
from flows.effect import NotDone, stage_named
from flows.parts import PUBLIC_KEYS, WantedBlock, wanted_blocks
from flows.prove.judge import other_major
from flows.redact import hide
from flows.stage import Stage
from flows.words import count, size
from flows.world import World, learn_block

PURPOSES: dict[str, Purpose] = {"reading": "reader", "pruning": "pruner"}  # by a store's role in its name
UNUSABLE = (BlockError, NotDone, ValueError, OSError)  # what a part that is wrong raises: a finding, and no end
DURATIONS = 200  # the newest backups whose time counts


@dataclass(frozen=True)
class Finding:
    """One line."""

    verdict: str  # ok, note, problem
    sentence: str


def check(name: str, environ: Mapping[str, str], say: Callable[[str], None] = print) -> int:
    """Say everything that was found; returns the number of problems."""
    stage = stage_named(name)
    say(f"{'ok':<9}stage {name} reads: {stage.service.name}, database {stage.database.name}")
    problems = 0
    for finding in findings(stage, environ):
        problems += finding.verdict == "problem"
        say(f"{finding.verdict:<9}{hide(finding.sentence)}")
    return problems


def findings(stage: Stage, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything, in the order in which a person would mend it."""
    yield _file(stage)
    wanted = wanted_blocks(stage, environ)
    for each in wanted:
        told = _block(each)
        yield told
        if each.block is BackupStore and each.name == stage.name and not each.missing:
            yield from _in_the_place_of_others(each, wanted, told.sentence)
        if each.block is PostgresServer and each.name == stage.name and told.verdict == "ok":
            yield from _database(stage, environ)
    yield from _scratch(stage, environ)
    yield from _ledger(stage, environ)
    yield from _keys(stage, environ)
    yield from _one_worker(environ)
    yield from _objectives(stage, environ)
    if told := warning(environ):
        yield Finding("note", told)


def _file(stage: Stage) -> Finding:
    try:
        found = declared(stage.name)
    except DeclarationError as error:
        return Finding("problem", str(error))
    return Finding("ok", f"prefect.yaml declares {len(found)} deployments of {stage.name}")


def _block(wanted: WantedBlock) -> Finding:
    what = f"{wanted.block.get_block_type_name()} {wanted.name}"
    if wanted.missing:
        unset = f"{what}: {', '.join(wanted.missing)} not set here"
        return Finding("note", f"{unset}, and it may be left out") if wanted.optional else Finding("problem", unset)
    try:
        return Finding("ok", f"{what}: {_answer(wanted.build(), wanted.name)}")
    except Missing as error:
        elsewhere = wanted.block is RestoreKey  # only the hosts that restore hold it
        return Finding("note" if elsewhere else "problem", f"{what}: {error}")
    except UNUSABLE as error:
        return Finding("problem", f"{what}: {error}")


def _in_the_place_of_others(store: WantedBlock, wanted: Sequence[WantedBlock], told: str) -> Iterator[Finding]:
    """What the writer's credentials must be able to do, as nobody gave others for it; not what was `told` already."""
    for role, purpose in PURPOSES.items():
        if any(each.name == f"{store.name}-{role}" and not each.missing for each in wanted):
            continue
        try:
            cast("BackupStore", store.build()).check(purpose)
        except UNUSABLE as error:
            if str(error) not in told:
                told += str(error)
                unset = f"no {role} credentials are set, so the Backup Store {store.name} does it"
                yield Finding("problem", f"{unset}: {error}")


def _answer(block: Block, name: str) -> str:
    learn_block(block)
    role = name.rpartition("-")[2]
    if isinstance(block, PostgresServer):
        return block.check(dumped=role != "ledger")
    if isinstance(block, BackupStore):
        return block.check(PURPOSES.get(role, "writer"))
    if isinstance(block, BackupKeys):
        return block.check("proof" if role == "proof" else "backup")
    ask: Callable[[], str] | None = getattr(block, "check", None)
    return ask() if ask else "configured"


def _database(stage: Stage, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What a backup's own look and plan refuse and warn of, by the stage's rules; and what a restore would lack."""
    try:
        server = World(stage, environ).database
        plan = plan_backup(stage, "on-demand", asdict(look.fn(server, stage)), Remembered(), tools_trouble=None)
        can_create = databases.facts(server.address()).can_create
    except UNUSABLE as error:
        yield Finding("problem", str(error))
        return
    yield from (Finding("problem", f"a backup refuses: {each}") for each in plan.refusals)
    yield from (Finding("note", f"of a backup: {each}") for each in plan.warnings)
    if not plan.refusals:
        taken = f"{count(plan.tables, 'table')}, {size(plan.size_bytes)}"
        yield Finding("ok", f"a backup would take {taken}, and nothing stands in its way")
    if not can_create:
        yield Finding("note", "the database's role may not create databases: to restore here, grant it CREATEDB")


def _scratch(stage: Stage, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether a scratch server that was given can prove what is dumped here."""
    try:
        world = World(stage, environ)
        if world.scratch is None:
            return
        dumped, found = (databases.facts(each.address()).version_num for each in (world.database, world.scratch))
    except UNUSABLE:
        return  # told where its block is made
    if other := other_major(dumped, found):
        yield Finding("problem", f"SCRATCH_URL: nothing can be proven there, it lacks {', '.join(other.lacks)}")


def _ledger(stage: Stage, environ: Mapping[str, str]) -> Iterator[Finding]:
    if why := shared_ledger(stage, environ):
        yield Finding("problem", why)


def shared_ledger(stage: Stage, environ: Mapping[str, str]) -> str:
    """What is wrong with a ledger that lies in the service's own database; empty: it does not, or nobody can tell."""
    made = [each for each in wanted_blocks(stage, environ) if each.block is PostgresServer and not each.missing]
    try:
        places = {each.name: _place(each.build()) for each in made}
    except UNUSABLE:
        return ""  # an address that can't be read is told where its block is made
    service, ledger = places.get(stage.name), places.get(f"{stage.name}-ledger")
    if service is None or service != ledger:
        return ""
    return "LEDGER_URL names the service's own database: give the ledger one of its own, or a restore takes it back too"


def _place(block: Block) -> tuple[str, int, str]:
    address = cast("PostgresServer", block).address()
    return address.host, address.port, address.database


def _keys(stage: Stage, environ: Mapping[str, str]) -> Iterator[Finding]:
    recipients = [each for each in environ.get("BACKUP_RECIPIENTS", "").split(",") if each.strip()]
    if len(recipients) == 1:
        yield Finding("note", "one recipient alone: when its identity is lost, no backup opens; add an escrow's")
    if any(not each.missing and each.name == stage.name for each in wanted_blocks(stage, environ)):
        yield from _pins(stage, environ)


def _pins(stage: Stage, environ: Mapping[str, str]) -> Iterator[Finding]:
    if not all(environ.get(each) for each in PUBLIC_KEYS):
        return  # told where the block is made
    try:
        World(stage, environ).keys  # noqa: B018 - compares the block's keys with those that the TOML pins
    except UNUSABLE as error:
        yield Finding("problem", str(error))
        return
    pins = stage.pinned_keys
    pinned = bool(pins.recipients and pins.verifying_keys and pins.proof_verifying_keys)
    yield (
        Finding("ok", f"the keys are those that {stage.name}.toml pins")
        if pinned
        else Finding(
            "note",
            f"{stage.name}.toml does not pin recipients, verifying_keys and proof_verifying_keys: whoever writes blocks"
            " can replace them",
        )
    )


def _one_worker(environ: Mapping[str, str]) -> Iterator[Finding]:
    identity = environ.get("RESTORE_IDENTITY_FILE", "")
    if identity and Path(identity).exists() and environ.get("BACKUP_SIGNING_KEY"):
        yield Finding(
            "note",
            "this host holds the identity that opens every backup: a worker here that also serves queue default costs"
            " that separation, whoever takes it over reads all backups; give queue restore a host of its own",
        )


def _objectives(stage: Stage, environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        crons = [each.cron for one in declared(stage.name) if one.flow == "backup" for each in one.schedules]
    except DeclarationError:
        return
    durations = []
    if environ.get("LEDGER_URL"):
        try:
            ledger = World(stage, environ).ledger
            ledger.check()
            backups = ledger.backups()
            durations = [each.finished - each.started for each in backups if each.state == "complete" and each.finished]
        except UNUSABLE as error:
            yield Finding("note", f"how long backups take is not known: {error}")
    verdict = keeps_rpo(crons, durations[-DURATIONS:], stage.objectives.rpo, datetime.now(UTC))
    yield Finding("ok" if verdict.go else "problem", verdict.reason)
