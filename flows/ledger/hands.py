"""How an operation comes into this process' hands and leaves them again: begun or taken over, run, settled or let go.

Invariant: whoever holds an operation renews it, and stops renewing only when it is settled, lost, or let go with its
trouble written down. Nothing here frees a scope: only settling does, in the ledger.
"""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from blocks.errors import BlockError, Refused
from blocks.postgres.address import Address, translate
from flows.effect import NotDone
from flows.ledger import holder
from flows.ledger.engine import run_id
from flows.ledger.errors import Busy, Fenced, Unheard
from flows.ledger.lease import Lease, boottime
from flows.ledger.line import Line
from flows.ledger.operation import Operation, short
from flows.ledger.setting import rebuilt
from flows.ledger.statements import BEGIN, HOLDING, KNOWN, TAKE_OVER, Beginning, Journal, Row
from flows.ledger.steps import Steps, list_of
from flows.records import Plan

FIRST_WORD_S = 1.0  # how long a beginning is repeated: with the ledger down a caller wants to hear so at once
END_OLDER = """select pg_terminate_backend(pid) from pg_stat_activity
    where application_name ~ ('^shipkeeper ' || %s || ' [0-9]+$')
    and split_part(application_name, ' ', 3)::bigint < %s"""
ENDED_BY = {  # by name, as most processes need no Prefect
    "TerminationSignal": "cancelled: its process was told to end",
    "KeyboardInterrupt": "cancelled: interrupted from the keyboard",
}
Look = Callable[[], Plan]


@dataclass(frozen=True)
class Settled:
    """How an operation ended; `operation` and `token` are None when there was no ledger."""

    operation: int | None
    state: Literal["done", "undone"]
    reason: str | None
    token: int | None


@dataclass(frozen=True)
class Hands:
    """What this process needs to hold operations of one ledger."""

    address: Address
    world: Any
    lease_s: float
    expendable: bool | None
    child: Callable[[Operation, str, Steps[Any], Plan], Settled]

    def begin(self, beginning: Beginning, parent: Operation | None) -> Operation | None:
        """A new operation with all its scopes; None when the key is known. Raises Busy when a scope is held."""
        line, name, sent_at = (
            Line(self.address, self.lease_s, owner_of(self.world)),
            holder.me(expendable=self.expendable),
            boottime(),
        )
        try:
            row: Row | None = line.ask(BEGIN, self._values(beginning, name), patience_s=FIRST_WORD_S)[0]
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name == "hold_pkey":
                raise self._held(line, beginning) from None
            if error.diag.constraint_name != "operation_key_key":
                raise translate(error, f"beginning {beginning.key}") from None
            row = next((known for known in line.ask(KNOWN, [beginning.key]) if known["holder"] == name), None)
        return self._operation(row, line, sent_at, parent) if row else None

    def take(self, row: Row, parent: Operation | None = None) -> Operation | None:
        """The operation of a dead holder under a new token, his traces ended; None when another was quicker."""
        line, name, sent_at = (
            Line(self.address, self.lease_s, owner_of(self.world)),
            holder.me(expendable=self.expendable),
            boottime(),
        )
        leases = [self.lease_s, self.lease_s]  # the taker's own: it renews to that beat
        values = [name, *leases, run_id(), row["id"], row["token"], row["expires_at"]]
        taken = line.ask(TAKE_OVER, values, patience_s=self.lease_s)
        if not taken:
            return None
        op = self._operation(taken[0], line, sent_at, parent)
        with _ending_well(op, _let_go):
            self._end_traces(op, row)
        return op

    def run(self, op: Operation, steps: Steps[Any], plan: Plan, look: Look | None) -> Settled:
        """Run the list to its end, or go on with the undo that was under way."""
        with _ending_well(op, _undo_or_let_go):
            changes = self._changes(op, plan, look)
            if changes or op.state == "undoing":
                op.undo(f"the world changed since the plan: {changes}")
            else:
                _forward(op, steps, plan)
        op.release()
        return _settled(op)

    def finish(self, op: Operation, row: Row) -> Settled:
        """What reconcile does with a dead holder's operation: committed ones forward, all others back."""
        with _ending_well(op, _let_go):
            if op.committed:
                steps = list_of(row["kind"])
                _forward(op, steps, steps.read_plan(row["plan"]))
            else:
                op.undo(_last_words(op))
        op.release()
        return _settled(op)

    # ---- below: how

    def _values(self, new: Beginning, name: str) -> list[Any]:
        state = "committed" if new.committed else "acting"
        first = [new.key, new.kind, state, Jsonb(new.plan), new.digest, new.parent, name, self.lease_s, self.lease_s]
        return [*first, new.actor, new.approved_by, new.prefect_run, list(new.scopes)]

    def _held(self, line: Line, beginning: Beginning) -> Busy:
        rows = line.ask(HOLDING, [list(beginning.scopes)])
        return (
            busy(rows[0], rows[0]["scope"]) if rows else Busy(f"{beginning.key} met another operation that just ended")
        )

    def _operation(self, row: Row, line: Line, sent_at: float, parent: Operation | None) -> Operation:
        lease = Lease(Line(self.address, self.lease_s, looks=False), self.lease_s, sent_at)
        journal = Journal(line, row["id"], row["token"], self.lease_s, lease.lose)
        lease.hold(journal.renewed)
        held = (lease, line)
        return Operation(
            journal,
            self.world,
            key=row["key"],
            state=row["state"],
            reason=row["reason"],
            held=held,
            parent=parent,
            child=self.child,
        )

    def _end_traces(self, op: Operation, row: Row) -> None:
        holder.end(row["holder"])
        if step := op.in_doubt:
            for server in rebuilt(step["setting"], step["arguments"]).servers(self.world):
                end_older(server, row["id"], op.token or 0)

    def _changes(self, op: Operation, plan: Plan, look: Look | None) -> str:
        if look is None or op.state != "acting" or op.has_steps:
            return ""
        now = look()
        return "" if now.digest() == plan.digest() else _difference(plan, now)


def end_older(server: Address, operation: int, token: int) -> None:
    """End what older holders of the operation left on that server: closer 2, Postgres can be fenced."""
    with contextlib.closing(server.connect(application_name=f"shipkeeper {operation} {token}")) as connection:
        connection.execute(END_OLDER, [str(operation), token])


def owner_of(world: Any) -> str | None:
    """The stage whose ledger it must be; None in a world without one (a test's)."""
    name = getattr(getattr(world, "stage", None), "name", None)
    return name if isinstance(name, str) else None


def busy(row: Row, what: str) -> Busy:
    """Who holds it, what he does, since when, and whether he still says so."""
    late = "" if row["expires_at"] >= row["now"] else "; its lease ran out, so reconcile will settle it"
    who = row["actor"] or row["holder"]
    doing = row["key"] if row["key"].startswith(f"{row['kind']} ") else f"{row['kind']} {row['key']}"
    message = f"{what} is held by {doing} of {who} since {row['began_at']:%Y-%m-%d %H:%M:%S %Z}{late}"
    return Busy(f"{message}: wait until it is settled", holder=who, kind=row["kind"], since=row["began_at"])


def _settled(op: Operation) -> Settled:
    return Settled(op.id, "done" if op.state == "done" else "undone", op.reason, op.token)


def _forward(op: Operation, steps: Steps[Any], plan: Plan) -> None:
    if steps.forward:
        op.commit("it only goes forward")
    steps.function(op, plan)
    op.settle_done()


@contextlib.contextmanager
def _ending_well(op: Operation, give_up: Callable[[Operation, BaseException], None]) -> Generator[None]:
    """Fenced or unheard touches nothing more, not even to undo; for anything else `give_up` says what becomes of it."""
    try:
        yield
    except (Fenced, Unheard):
        op.release()
        raise
    except BaseException as error:
        try:
            give_up(op, error)
        finally:
            op.release()
        raise


def _undo_or_let_go(op: Operation, error: BaseException) -> None:
    if op.state != "acting":
        _let_go(op, error)
        return
    try:
        op.undo(sentence(error))
    except (Fenced, Unheard):
        raise
    except BaseException as trouble:
        _let_go(op, trouble)
        if not isinstance(trouble, Exception):  # told to end meanwhile
            raise
        if isinstance(error, Exception):  # never as itself: who catches that takes the operation for undone
            stuck = f"it could not be undone yet: {sentence(trouble)}"
            raise Refused(f"{sentence(error)}; {stuck}; reconcile tries again") from None


def _let_go(op: Operation, error: BaseException) -> None:
    """Trouble that cannot be written down shows by itself: the lease runs out."""
    with contextlib.suppress(BlockError):
        op.let_go(sentence(error))


def sentence(error: BaseException) -> str:
    """What an exception says, for a row and for people."""
    text = str(error)
    if isinstance(error, (BlockError, NotDone)) and text:
        return text
    if words := ENDED_BY.get(type(error).__name__):
        return words
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _last_words(op: Operation) -> str:
    doubt = op.in_doubt
    return "its holder died while acting" + (f", in step {doubt['name']}" if doubt else "")


def _difference(plan: Plan, now: Plan) -> str:
    old, new = plan.model_dump(mode="json"), now.model_dump(mode="json")
    fields = [name for name in old if name not in plan.loose and old[name] != new.get(name)]
    return "; ".join(f"{name} was {short(old[name])}, is {short(new.get(name))}" for name in fields) or "its type"
