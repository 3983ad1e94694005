"""World.of(stage): what a run works with, read lazily and once: the stage's TOML and the blocks named after the stage.

The parts table below is the one place that says which block holds what, and from which of the deployer's environment
variables `apply` fills it; break glass builds the same blocks from the same variables, without a Prefect server.
"""

import json
import logging
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from prefect.blocks.core import Block
from prefect.context import FlowRunContext
from prefect_aws import AwsCredentials
from prefect_slack import SlackWebhook
from pydantic import SecretStr

from blocks.counter import Counter
from blocks.errors import Missing, Refused, Unreachable
from blocks.haproxy import HAProxy
from blocks.keys import BackupKeys, RestoreKey
from blocks.postgres.server import PostgresServer
from blocks.processes import Processes
from blocks.storage.block import BackupStore
from flows.effect import NotDone, actor, break_glass, plain, stage_named
from flows.ledger import Busy, Fenced, Ledger, Settled, Steps, Stopped, carry_out_alone
from flows.records import Backup, Check, Plan, Proof
from flows.redact import learn
from flows.stage import Stage

LOG = logging.getLogger("flows.world")
B = TypeVar("B", bound=Block)
P = TypeVar("P", bound=Plan)
Environment = Mapping[str, str]
SHORTEST_LEARNED = 12  # characters of a service's variable: `production` is no secret
COMMAND_SHARE = 0.2  # of the lease: a command begun at 80 % of it is over at its end
TOLD_BY_THE_LEDGER = (Busy, Fenced, Stopped)  # refusals of one that works; any other is of one that can't be used


@dataclass(frozen=True)
class Part:
    """A block of a stage: its role in the name, the variables it is made from, and how."""

    role: str  # "" is the block named like the stage itself
    block: type[Block]
    needs: tuple[str, ...]
    build: Callable[[Stage, Environment], Block]
    optional: bool = False
    spare: tuple[str, ...] = ()  # break glass does without: it reads and restores, and signs nothing
    where: Callable[[Stage], bool] = lambda _stage: True  # on which stages there is one at all

    def name(self, stage: str) -> str:
        """The block's name: the stage, and the role where a stage has several blocks of one type."""
        return f"{stage}-{self.role}" if self.role else stage


@dataclass(frozen=True)
class WantedBlock:
    """What `apply` saves: a block's name and how to build it, or the variables that are missing for it."""

    name: str
    block: type[Block]
    build: Callable[[], Block]
    missing: tuple[str, ...]
    optional: bool
    spare: tuple[str, ...] = ()


def _server(url: str) -> Callable[[Stage, Environment], Block]:
    def build(stage: Stage, env: Environment) -> Block:
        ca = env.get(f"{url}_CA_FILE", "")
        return PostgresServer(
            url=SecretStr(env[url]), ca=Path(ca).read_text(encoding="utf-8") if ca else "", bin_dir=stage.database.tools
        )

    return build


def _store(prefix: str) -> Callable[[Stage, Environment], Block]:
    def build(stage: Stage, env: Environment) -> Block:
        store = stage.store
        if store.kind == "directory":
            return BackupStore(kind="directory", folder=store.folder, prefix=store.prefix)
        credentials = AwsCredentials(
            aws_access_key_id=env[f"{prefix}AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SecretStr(env[f"{prefix}AWS_SECRET_ACCESS_KEY"]),
            region_name=store.region or None,
            aws_client_parameters={"endpoint_url": env.get("AWS_ENDPOINT_URL")},  # pyright: ignore[reportArgumentType] - pydantic makes it
        )
        return BackupStore(
            kind="s3",
            bucket=store.bucket,
            prefix=store.prefix,
            credentials=credentials,
            sse=store.sse or "none",
            storage_class=store.storage_class,
            frequent_storage_class=store.frequent_storage_class,
        )

    return build


def _keys(signing: str) -> Callable[[Stage, Environment], Block]:
    def build(_stage: Stage, env: Environment) -> Block:
        return BackupKeys(
            recipients=env["BACKUP_RECIPIENTS"].split(","),
            verifying_keys=env["BACKUP_VERIFYING_KEYS"].split(","),
            proof_verifying_keys=env["PROOF_VERIFYING_KEYS"].split(","),
            signing_key=SecretStr(env[signing]) if env.get(signing) else None,
        )

    return build


def _processes(stage: Stage, env: Environment) -> Block:
    names = dict.fromkeys((*stage.environment.required, *stage.environment.presets))
    given = {name: env.get(f"SERVICE_{name}") or stage.environment.presets.get(name, "") for name in names}
    return Processes(
        folder=env["PROCESSES_FOLDER"],
        repository=env["PROCESSES_REPOSITORY"],
        ports=json.loads(env["PROCESSES_PORTS"]),
        start_command=shlex.split(env["PROCESSES_START"]),
        environment={name: SecretStr(value) for name, value in given.items() if value},
        grace_s=stage.release.drain_limit.total_seconds(),
    )


def _balancer(stage: Stage, env: Environment) -> Block:
    lease_s = stage.ledger.lease.total_seconds()
    return HAProxy(socket=env["HAPROXY_SOCKET"], url=env["HAPROXY_URL"], timeout_s=lease_s * COMMAND_SHARE)


def _on_processes(stage: Stage) -> bool:
    return stage.release.platform == "processes"


PROCESSES = ("PROCESSES_FOLDER", "PROCESSES_REPOSITORY", "PROCESSES_PORTS", "PROCESSES_START")
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
PUBLIC_KEYS = ("BACKUP_RECIPIENTS", "BACKUP_VERIFYING_KEYS", "PROOF_VERIFYING_KEYS")
PARTS = (
    Part("", PostgresServer, ("DATABASE_URL",), _server("DATABASE_URL")),
    Part("ledger", PostgresServer, ("LEDGER_URL",), _server("LEDGER_URL")),
    Part("scratch", PostgresServer, ("SCRATCH_URL",), _server("SCRATCH_URL"), optional=True),
    Part("", BackupStore, AWS, _store("")),
    Part("reading", BackupStore, tuple(f"READING_{name}" for name in AWS), _store("READING_"), optional=True),
    Part("pruning", BackupStore, tuple(f"PRUNING_{name}" for name in AWS), _store("PRUNING_"), optional=True),
    Part(
        "", BackupKeys, (*PUBLIC_KEYS, "BACKUP_SIGNING_KEY"), _keys("BACKUP_SIGNING_KEY"), spare=("BACKUP_SIGNING_KEY",)
    ),
    Part("proof", BackupKeys, (*PUBLIC_KEYS, "PROOF_SIGNING_KEY"), _keys("PROOF_SIGNING_KEY")),
    Part(
        "",
        RestoreKey,
        ("RESTORE_IDENTITY_FILE",),
        lambda _stage, env: RestoreKey(identity_file=env["RESTORE_IDENTITY_FILE"]),
    ),
    Part("", Processes, PROCESSES, _processes, where=_on_processes),
    Part("", HAProxy, ("HAPROXY_SOCKET", "HAPROXY_URL"), _balancer, where=_on_processes),
    Part(
        "",
        Counter,
        ("COUNTER_FILE",),
        lambda _stage, env: Counter(file=env["COUNTER_FILE"]),
        where=_on_processes,
    ),
    Part(
        "",
        SlackWebhook,
        ("SLACK_WEBHOOK_URL",),
        lambda _stage, env: SlackWebhook(url=SecretStr(env["SLACK_WEBHOOK_URL"])),
        optional=True,
    ),
)


def wanted_blocks(stage: Stage, environ: Environment) -> list[WantedBlock]:
    """Every block of the stage, with what is missing in the environment to build it."""
    return [
        WantedBlock(
            part.name(stage.name),
            part.block,
            lambda part=part: part.build(stage, environ),
            tuple(name for name in _needs(part, stage) if not environ.get(name)),
            part.optional,
            part.spare,
        )
        for part in PARTS
        if part.where(stage)
    ]


def _needs(part: Part, stage: Stage) -> tuple[str, ...]:
    directory = part.block is BackupStore and stage.store.kind == "directory"
    return () if directory else part.needs


class World:
    """The stage and its blocks; each is loaded when first asked for, and its secrets are learned by the redactor."""

    def __init__(self, stage: Stage, environ: Environment | None = None) -> None:
        """With `environ` the blocks are made from it, else loaded from the Prefect server."""
        self.stage = stage
        self._environ = environ

    @classmethod
    def of(cls, stage: str) -> "World":
        """The world of the named stage; refused in a run whose work pool belongs to another stage."""
        _same_pool(stage)
        return cls(stage_named(stage), dict(os.environ) if plain() else None)

    @cached_property
    def database(self) -> PostgresServer:
        """The service's Postgres server."""
        return self._block(PostgresServer)

    @cached_property
    def scratch(self) -> PostgresServer | None:
        """The server on which proofs restore; None: embedded binaries."""
        return self._optional(PostgresServer, "scratch")

    @cached_property
    def store(self) -> BackupStore:
        """The store with the writer's rights."""
        return self._block(BackupStore)

    @cached_property
    def reading(self) -> BackupStore:
        """The store with the reader's (prover's) rights; the writer's where a team has one set."""
        return self._optional(BackupStore, "reading") or self.store

    @cached_property
    def pruning(self) -> BackupStore:
        """The store with the pruner's rights; the writer's where a team has one set."""
        return self._optional(BackupStore, "pruning") or self.store

    @cached_property
    def keys(self) -> BackupKeys:
        """Recipients, verifying keys of both roles, and the signing key of backups."""
        return self._pinned(self._block(BackupKeys))

    @cached_property
    def proof_keys(self) -> BackupKeys:
        """The same with the signing key of proofs."""
        return self._pinned(self._block(BackupKeys, "proof"))

    @cached_property
    def restore_key(self) -> RestoreKey:
        """Where the identity that opens backups lies on this host."""
        return self._block(RestoreKey)

    @cached_property
    def platform(self) -> Processes:
        """Where releases run."""
        return self._block(Processes)

    @cached_property
    def traffic(self) -> HAProxy:
        """The load balancer before the platform's slots."""
        return self._block(HAProxy)

    @cached_property
    def counter(self) -> Counter:
        """What was served, by slot and second."""
        return self._block(Counter)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of the control plane."""
        rules = self.stage.ledger
        return Ledger(
            self._block(PostgresServer, "ledger").address(),
            self,
            lease=rules.lease,
            when_busy=rules.when_busy,
            wait_limit=rules.wait_limit,
        )

    def carry_out(
        self,
        steps: Steps[P],
        plan: P,
        *,
        key: str,
        look: Callable[[], P] | None = None,
        approved_by: str | None = None,
    ) -> Settled:
        """Carry a step list out through the ledger (in break glass with --alone: without); NotDone: undone."""
        glass = break_glass()
        if glass and glass.alone:
            return carry_out_alone(steps, plan, self, insist=True)
        settled = self.ledger.carry_out(steps, plan, key=key, look=look, approved_by=approved_by, actor=actor())
        if settled.state == "undone":
            raise NotDone(f"nothing was changed: {settled.reason}")
        return settled

    def remember(self, record: Backup | Proof | Check) -> None:
        """Write a record to the ledger; when it can't be used, say so: reconcile finds it again in the bucket."""
        try:
            self.ledger.remember(record)
        except (Unreachable, Missing, Refused) as unusable:
            if isinstance(unusable, TOLD_BY_THE_LEDGER):
                raise
            LOG.warning("not recorded in the ledger: %s", unusable)

    def server(self, name: str) -> PostgresServer:
        """Another server, by the name of its PostgresServer block (in break glass: from the variable NAME_URL)."""
        found = self._other_server(name)
        if found is None:
            raise Missing(
                f"no PostgresServer block {name!r} (in break glass: no variable for it): save one, or leave it out"
            )
        _learn(found)
        return found

    def _block(self, kind: type[B], role: str = "") -> B:
        found = self._optional(kind, role)
        if found is None:
            raise self._missing(kind, role)
        return found

    def _optional(self, kind: type[B], role: str = "") -> B | None:
        name = f"{self.stage.name}-{role}" if role else self.stage.name
        found = _load(kind, name) if self._environ is None else self._made(kind, name)
        if found is not None:
            _learn(found)
        return found

    def _made(self, kind: type[B], name: str) -> B | None:
        for wanted in wanted_blocks(self.stage, self._environ or {}):
            if wanted.block is kind and wanted.name == name and not set(wanted.missing) - set(wanted.spare):
                made = wanted.build()
                return made if isinstance(made, kind) else None
        return None

    def _other_server(self, name: str) -> PostgresServer | None:
        if self._environ is None:
            return _load(PostgresServer, name)
        url = f"{name.upper().replace('-', '_')}_URL"
        made = _server(url)(self.stage, self._environ) if self._environ.get(url) else None
        return made if isinstance(made, PostgresServer) else None

    def _missing(self, kind: type[Block], role: str) -> Missing:
        name = f"{self.stage.name}-{role}" if role else self.stage.name
        needs = [n for part in PARTS if part.block is kind and part.role == role for n in _needs(part, self.stage)]
        if self._environ is None:
            return Missing(
                f"no {kind.__name__} block {name!r} on the Prefect server: set {', '.join(needs)} and run"
                f" python -m deployments apply --stage {self.stage.name}"
            )
        unset = [each for each in needs if not self._environ.get(each)]
        alone = "; a backup and a restore also run --alone" if role == "ledger" else ""
        return Missing(f"the {kind.__name__} of {name} needs {', '.join(unset)} in the environment{alone}")

    def _pinned(self, keys: BackupKeys) -> BackupKeys:
        if not keys.proof_verifying_keys:
            raise NotDone(
                f"the BackupKeys block of {self.stage.name} trusts no key for proofs: an older shipkeeper saved it;"
                f" set PROOF_VERIFYING_KEYS and run python -m deployments apply --stage {self.stage.name}"
            )
        pinned = self.stage.pinned_keys
        for what, toml, block in (
            ("recipients", pinned.recipients, keys.recipients),
            ("verifying_keys", pinned.verifying_keys, keys.verifying_keys),
            ("proof_verifying_keys", pinned.proof_verifying_keys, keys.proof_verifying_keys),
        ):
            if toml and set(toml) != set(block):
                raise NotDone(
                    f"the {what} of the BackupKeys block and of {self.stage.name}.toml differ: somebody changed one of"
                    " them; make both equal before anything is encrypted or believed"
                )
        return keys


def _load(kind: type[B], name: str) -> B | None:
    try:
        loaded = kind.load(name)
    except ValueError:
        return None
    return loaded if isinstance(loaded, kind) else None


def _learn(block: Block) -> None:
    for value in block.__dict__.values():
        if isinstance(value, SecretStr) and value.get_secret_value():
            learn(value.get_secret_value())
        elif isinstance(value, Block):
            _learn(value)
    if isinstance(block, Processes):
        for value in (each.get_secret_value() for each in block.environment.values()):
            if len(value) >= SHORTEST_LEARNED:  # what is shorter stands in innocent text everywhere
                learn(value)


def _same_pool(stage: str) -> None:
    context = FlowRunContext.get()
    refuse_other_pool(stage, context.flow_run.work_pool_name if context and context.flow_run else None)


def refuse_other_pool(stage: str, pool: str | None) -> None:
    """NotDone in a run whose work pool is another stage's; a run without a pool was started by hand."""
    if pool and pool != stage:
        raise NotDone(f"stage {stage!r} was asked for on a worker of {pool!r}: a stage runs on its own work pool only")
