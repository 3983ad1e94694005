"""The ledger: who changes what, how far he came, what became of it; and what is remembered of backups.

Everything that changes the world goes through `carry_out`. This package never decides what to do: it makes sure that
what was decided is done once, to its end or back to its beginning, by one process at a time.
"""

import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from pydantic import JsonValue

from blocks.errors import BlockError, Refused
from blocks.postgres.address import Address
from flows.ledger import memory, migrate
from flows.ledger.engine import run_id
from flows.ledger.errors import Busy
from flows.ledger.hands import Hands, Look, Settled, busy, owner_of
from flows.ledger.line import Line
from flows.ledger.operation import Operation
from flows.ledger.releases import Releases
from flows.ledger.statements import KNOWN, Beginning, Row, Unwritten
from flows.ledger.steps import Steps
from flows.ledger.takeover import TICK, Reconciler, stands_still_s
from flows.records import Backup, Check, Plan, Proof

P = TypeVar("P", bound=Plan)
POLL_S = 0.5
PEOPLE = """select o.*, clock_timestamp() as now, d.name as in_doubt,
        array(select h.scope from ledger.hold h where h.operation = o.id order by h.scope) as scopes
    from ledger.operation o left join ledger.step d on d.operation = o.id and d.state in ('intent', 'undoing')"""
OPEN_FIRST = PEOPLE + " where o.ended_at is null order by o.id desc"
NEWEST = PEOPLE + " order by o.ended_at is not null, o.id desc limit %s"
SETTLED = PEOPLE + " where o.ended_at is not null and starts_with(o.key, %s) order by o.id desc"
SETTLED_WITHIN = PEOPLE + " where o.ended_at > clock_timestamp() - %s order by o.id desc"
STOP = """update ledger.operation set stop_asked = %s where (key = %s or id in (select operation from ledger.hold
    where scope = %s)) and ended_at is null and stop_asked is null returning key"""
TELL = "select at, what from ledger.event where operation = %s order by id"
TICKED = "select at from ledger.tick where name = %s"
NOW = "select clock_timestamp() as now"
BACKUPS = "select record from ledger.backup order by at, id"
PROOFS = "select record from ledger.proof where %s::text is null or backup = %s order by at"
CHECKS = 'select record from ledger."check" where %s::text is null or backup = %s order by at'


@dataclass(frozen=True)
class Entry:
    """An operation as people see it; times are the ledger's clock's."""

    id: int
    key: str
    kind: str
    state: str
    holder: str
    token: int
    scopes: tuple[str, ...]
    actor: str | None
    approved_by: str | None
    began_at: datetime
    ended_at: datetime | None
    expires_at: datetime
    renewed_ago: timedelta
    in_doubt: str | None
    failures: int
    trouble: str | None
    stop_asked: str | None
    reason: str | None
    prefect_run: UUID | None

    def __str__(self) -> str:
        """`deploy v43, undone after 12 s: error rate 4.1 %; anna, approved by ben`."""
        if self.ended_at is None:
            what = self.trouble or (f"in step {self.in_doubt}" if self.in_doubt else f"held by {self.holder}")
            ending = f"{self.state} since {self.began_at:%Y-%m-%d %H:%M:%S %Z}: {what}"
        else:
            ending = f"{self.state} after {(self.ended_at - self.began_at).total_seconds():.0f} s: {self.reason or ''}"
        people = [self.actor, self.approved_by and f"approved by {self.approved_by}"]
        return "; ".join([f"{self.kind} {self.key}, {ending}", ", ".join(who for who in people if who)]).rstrip("; :")


class Ledger:
    """One ledger as this process uses it; `world` is handed to Settings, its `stage.faults` allows fault points."""

    def __init__(  # noqa: PLR0913 - the settings of a stage
        self,
        address: Address,
        world: Any = None,
        *,
        lease: timedelta = timedelta(seconds=30),
        when_busy: Literal["refuse", "wait"] = "refuse",
        wait_limit: timedelta = timedelta(minutes=10),
        tick: timedelta = timedelta(seconds=5),
        expendable: bool | None = None,
    ) -> None:
        """`expendable`: a taker on this host may kill this process (default: when a worker started it for one run)."""
        self.address = address
        self.world = world
        lease_s = lease.total_seconds()
        self._wait_s = wait_limit.total_seconds() if when_busy == "wait" else 0.0
        self._owner = owner_of(world)
        self._line = Line(address, lease_s, self._owner)
        self._hands = Hands(address, world, lease_s, expendable, self._as_child)
        self._watch = Line(address, lease_s, self._owner, "shipkeeper reconcile")
        self._reconciler = Reconciler(self._hands, self._watch, tick.total_seconds())

    # ---- the ledger itself

    def migrate(self) -> str:
        """Bring its tables to this code's version; says what was done. Refused when a newer shipkeeper made it."""
        return migrate.migrate(self.address, self._owner)

    def check(self) -> str:
        """That it answers and is at this code's version, in one sentence; Unreachable or Refused otherwise."""
        found = migrate.version(self.address)
        migrate.refuse_newer(self.address, found)
        if found < migrate.LATEST:
            raise Refused(
                f"the ledger {self.address} is at version {found}, {migrate.LATEST} is needed: apply the stage"
            )
        open_ = len(self.open())
        ticked = self.ticked()
        seen = f"reconcile last passed at {ticked:%Y-%m-%d %H:%M:%S %Z}" if ticked else "reconcile never passed"
        return f"the ledger {self.address} answers, version {found}, {open_} open operations, {seen}"

    def close(self) -> None:
        """Leave the ledger; another reconcile may take its turn."""
        self._line.close()
        self._watch.close()

    # ---- operations

    def carry_out(  # noqa: PLR0913 - what is done, and who wants it
        self,
        steps: Steps[P],
        plan: P,
        *,
        key: str,
        look: Look | None = None,
        approved_by: str | None = None,
        actor: str | None = None,
    ) -> Settled:
        """Do it once: a new key is run, a settled one answers with its row, a dead one is taken over and gone on with.

        `look` makes the plan again while everything is held: another digest undoes it, "the world changed". Raises Busy
        naming who holds it, Unheard without a ledger, what the list raised after undoing it, Fenced when it was lost.
        """
        new = _beginning(steps, plan, key, committed=steps.forward and look is None)
        new = replace(new, approved_by=approved_by, actor=actor)
        return self._carry_out(steps, plan, new, look, None)

    def tick_once(self) -> list[str]:
        """One pass of reconcile; the sentences of what was done since the last one. Finishing goes on in threads."""
        return self._reconciler.tick()

    def tick(self, name: str) -> None:
        """Say that `name` is alive."""
        self._line.ask(TICK, [name])

    def ticked(self, name: str = "reconcile") -> datetime | None:
        """When `name` last said that it is alive, by the ledger's clock."""
        rows = self._line.ask(TICKED, [name])
        return rows[0]["at"] if rows else None

    def now(self) -> datetime:
        """The time by the ledger's clock, which its ticks are measured by; this machine's may go wrong."""
        return self._line.ask(NOW)[0]["now"]

    def open(self) -> list[Entry]:
        """Operations that are not settled, the newest first."""
        return [_entry(row) for row in self._line.ask(OPEN_FIRST)]

    def history(self, limit: int = 50) -> list[Entry]:
        """Open operations, then settled ones, each newest first."""
        return [_entry(row) for row in self._line.ask(NEWEST, [limit])]

    def settled(self, key_prefix: str) -> list[Entry]:
        """Settled operations whose key begins so, the newest first."""
        return [_entry(row) for row in self._line.ask(SETTLED, [key_prefix])]

    def settled_within(self, time: timedelta) -> list[Entry]:
        """Operations that were settled so long ago or later, the newest first."""
        return [_entry(row) for row in self._line.ask(SETTLED_WITHIN, [time])]

    def story(self, operation: int) -> list[tuple[datetime, str]]:
        """What happened in an operation, as the ledger's triggers wrote it."""
        return [(row["at"], row["what"]) for row in self._line.ask(TELL, [operation])]

    def plan(self, key: str) -> JsonValue:
        """The plan with which the operation of that key was begun; None: there is none."""
        rows = self._line.ask(KNOWN, [key])
        return rows[0]["plan"] if rows else None

    def ask_to_stop(self, key_or_scope: str, who: str) -> list[str]:
        """Ask the operation of that key, or the holder of that scope, to undo itself; the keys that were asked."""
        return [row["key"] for row in self._line.ask(STOP, [who, key_or_scope, key_or_scope])]

    # ---- what is remembered

    @property
    def releases(self) -> Releases:
        """Releases, their gates, looks and quarantine."""
        return Releases(self._line)

    def remember(self, record: Backup | Proof | Check, op: Operation | None = None) -> None:
        """Write a record, or write it again; fenced by the operation when one is given."""
        memory.remember(self._line, record, op)

    def backups(self) -> list[Backup]:
        """All that are remembered, oldest first."""
        return [Backup.model_validate(found) for found in memory.recall(self._line, BACKUPS)]

    def proofs(self, backup: str | None = None) -> list[Proof]:
        """All proofs, or those of one backup, oldest first."""
        return [Proof.model_validate(found) for found in memory.recall(self._line, PROOFS, [backup, backup])]

    def checks(self, backup: str | None = None) -> list[Check]:
        """All checks, or those of one backup, oldest first."""
        return [Check.model_validate(found) for found in memory.recall(self._line, CHECKS, [backup, backup])]

    def forget(self, backup: str) -> None:
        """Forget a backup with its proofs and checks: it is not in the bucket any more."""
        self._line.ask(memory.FORGET, [backup, backup, backup])

    def sweep(self) -> str:
        """Forget what is older than its retention: steps and events 90 days, operations two years."""
        return memory.sweep(self._line)

    # ---- below: how a key is taken

    def _carry_out(
        self, steps: Steps[P], plan: P, new: Beginning, look: Look | None, parent: Operation | None
    ) -> Settled:
        end = time.monotonic() + self._wait_s
        while True:
            try:
                got = self._taken(steps, plan, new, parent)
                break
            except Busy:
                if time.monotonic() > end:
                    raise
                if parent:
                    parent.still()
                time.sleep(POLL_S)  # the ledger tells nobody when a scope is free
        return got if isinstance(got, Settled) else self._hands.run(got[0], steps, got[1], look)

    def _taken(
        self, steps: Steps[P], plan: P, new: Beginning, parent: Operation | None
    ) -> Settled | tuple[Operation, P]:
        op = self._hands.begin(new, parent)
        if op:
            return op, plan
        row = self._known(new)
        if row["ended_at"]:
            return Settled(row["id"], row["state"], row["reason"], row["token"])
        op = self._of_the_dead(row, parent)
        return op, steps.read_plan(row["plan"])

    def _of_the_dead(self, row: Row, parent: Operation | None) -> Operation:
        still_s = stands_still_s(row)
        if still_s is None:
            raise busy(row, row["key"])
        time.sleep(still_s)  # its lease ran out: look whether it also stands still on our own clock
        op = self._hands.take(row, parent)
        if op is None:
            raise busy(row, row["key"])
        return op

    def _known(self, new: Beginning) -> Row:
        row = self._line.ask(KNOWN, [new.key])[0]
        if row["kind"] != new.kind:
            raise Refused(f"the key {new.key} belongs to a {row['kind']}, not to a {new.kind}: give this one its own")
        return row

    def _as_child(self, parent: Operation, key: str, steps: Steps[Any], plan: Plan) -> Settled:
        new = replace(_beginning(steps, plan, key, committed=steps.forward), parent=parent.id)
        return self._carry_out(steps, plan, new, None, parent)


def carry_out_alone(steps: Steps[P], plan: P, world: Any = None, *, insist: bool = False) -> Settled:
    """Run a list without a ledger: nothing keeps a second operator out, and nobody finishes it after a death.

    Only a list that says `alone=True` may, or a person who insists (break glass' `--alone`).
    """
    if not (steps.alone or insist):
        raise Refused(f"{steps.kind} needs the ledger: without it nothing keeps a second operator out; --alone insists")
    op = Operation(Unwritten(), world, key=steps.kind)
    try:
        steps.function(op, plan)
        op.settle_done()
    except BaseException as error:
        if not op.committed:
            _undo_alone(op, str(error) or type(error).__name__)
        raise
    return Settled(None, "done", op.reason, None)


def _undo_alone(op: Operation, because: str) -> None:
    try:
        op.undo(because)
    except BlockError as stuck:  # there is no reconcile that would find it: both are said, or one is never heard
        step = f"{op.in_doubt['name']} " if op.in_doubt else ""
        raise Refused(f"{because}; undoing {step}failed too: {stuck}; without a ledger nobody tries again") from None


def _beginning(steps: Steps[P], plan: P, key: str, *, committed: bool) -> Beginning:
    recorded = plan.model_dump(mode="json")
    return Beginning(key, steps.kind, committed, recorded, plan.digest(), steps.scopes(plan), prefect_run=run_id())


def _entry(row: Row) -> Entry:
    renewed = row["now"] - (row["expires_at"] - timedelta(seconds=row["lease_s"]))
    fields = {name: row[name] for name in Entry.__dataclass_fields__ if name not in ("renewed_ago", "scopes")}
    return Entry(renewed_ago=renewed, scopes=tuple(row["scopes"]), **fields)
