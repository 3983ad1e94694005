"""World.of(stage): what a run works with, read lazily and once: the stage's TOML and the blocks named after the stage.

Which blocks those are, and what they are made from, is said by the parts table in flows/parts.py. In break glass they
are made from the environment, without a Prefect server.
"""

import logging
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

from prefect.blocks.core import Block
from prefect.context import FlowRunContext
from prefect_slack import SlackWebhook
from pydantic import SecretStr

from blocks.counter import Counter
from blocks.errors import Missing, Refused, Unreachable
from blocks.github import GitHub
from blocks.haproxy import HAProxy
from blocks.keys import BackupKeys, RestoreKey
from blocks.postgres.server import PostgresServer
from blocks.processes import Processes
from blocks.slack import SlackChannel
from blocks.storage.block import BackupStore
from flows.effect import NotDone, actor, break_glass, plain, stage_named
from flows.ledger import Busy, Fenced, Ledger, Settled, Steps, Stopped, carry_out_alone
from flows.parts import PARTS, PUBLIC_KEYS, Environment, needs_of, server_part, wanted_blocks
from flows.people import Announcement
from flows.records import Backup, Check, Plan, Proof
from flows.redact import learn
from flows.stage import Stage

LOG = logging.getLogger("flows.world")
B = TypeVar("B", bound=Block)
P = TypeVar("P", bound=Plan)
SHORTEST_LEARNED = 12  # characters of a service's variable: `production` is no secret
TOLD_BY_THE_LEDGER = (Busy, Fenced, Stopped)  # refusals of one that works; any other is of one that can't be used


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
        """The service's database; NotDone when the block is for another one than the stage's TOML names."""
        server, named = self._block(PostgresServer), self.stage.database.name
        if (found := server.address().database) != named:
            raise NotDone(
                f"the stage's database is {found!r} by its block and {named!r} by {self.stage.name}.toml ([database]"
                " name): correct one of them, as a backup is kept under that name"
            )
        return server

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
        if self._environ is not None and not all(self._environ.get(name) for name in PUBLIC_KEYS):
            raise self._unset(BackupKeys, self.stage.name, PUBLIC_KEYS)
        return self._pinned(self._block(BackupKeys))

    @cached_property
    def reading_keys(self) -> BackupKeys:
        """The same for what only reads: break glass wants no recipients then, and no keys of proofs either."""
        keys = self._pinned(self._block(BackupKeys))
        if not keys.proof_verifying_keys:
            LOG.warning("PROOF_VERIFYING_KEYS is not set: no backup counts as proven, and none as disproven")
        return keys

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
    def github(self) -> GitHub | None:
        """The service's repository on GitHub; None: no token was given."""
        return self._optional(GitHub)

    @cached_property
    def slack(self) -> SlackChannel | SlackWebhook | None:
        """Where people are told of a release: a channel whose message is edited, or a webhook; None: nowhere."""
        return self._optional(SlackChannel) or self._optional(SlackWebhook)

    @cached_property
    def announcement(self) -> Announcement:
        """The one message that tells people of what this run does to a release."""
        return Announcement(self.slack)

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
        learn_block(found)
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
            learn_block(found)
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
        made = server_part(url)(self.stage, self._environ) if self._environ.get(url) else None
        return made if isinstance(made, PostgresServer) else None

    def _missing(self, kind: type[Block], role: str) -> Missing:
        name = f"{self.stage.name}-{role}" if role else self.stage.name
        parts = [part for part in PARTS if part.block is kind and part.role == role]
        if self._environ is None:
            needs = [each for part in parts for each in needs_of(part, self.stage)]
            return Missing(
                f"no {kind.__name__} block {name!r} on the Prefect server: set {', '.join(needs)} and run"
                f" python -m deployments apply --stage {self.stage.name}"
            )
        demanded = [each for part in parts for each in needs_of(part, self.stage) if each not in part.spare]
        alone = "; a backup and a restore also run --alone" if role == "ledger" else ""
        return self._unset(kind, name, demanded, alone)

    def _unset(self, kind: type[Block], name: str, demanded: Sequence[str], alone: str = "") -> Missing:
        unset = [each for each in demanded if not (self._environ or {}).get(each)]
        return Missing(f"the {kind.__name__} of {name} needs {', '.join(unset)} in the environment{alone}")

    def _pinned(self, keys: BackupKeys) -> BackupKeys:
        from_server = self._environ is None
        if from_server and not keys.proof_verifying_keys:
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
            if toml and (block or from_server) and set(toml) != set(block):
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


def learn_block(block: Block) -> None:
    """Hide the block's secrets from now on in all that this process shows; NotDone names one that can't be hidden."""
    for name, value in block.__dict__.items():
        if isinstance(value, SecretStr) and value.get_secret_value():
            try:
                learn(value.get_secret_value())
            except ValueError as error:
                raise NotDone(f"{name} of the {block.get_block_type_name()} block: {error}") from None
        elif isinstance(value, Block):
            learn_block(value)
    if isinstance(block, Processes):
        for value in (each.get_secret_value() for each in block.environment.values()):
            if len(value.strip()) >= SHORTEST_LEARNED:  # what is shorter stands in innocent text everywhere
                learn(value)


def _same_pool(stage: str) -> None:
    context = FlowRunContext.get()
    refuse_other_pool(stage, context.flow_run.work_pool_name if context and context.flow_run else None)


def refuse_other_pool(stage: str, pool: str | None) -> None:
    """NotDone in a run whose work pool is another stage's; a run without a pool was started by hand."""
    if pool and pool != stage:
        raise NotDone(f"stage {stage!r} was asked for on a worker of {pool!r}: a stage runs on its own work pool only")
