"""Every transition of an operation and its steps is one statement: a stopped client leaves no transaction open.

All may be repeated, as their answer can be lost. A statement that changes no row means: the token was replaced.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb
from pydantic import JsonValue

from blocks.errors import Refused
from flows.ledger.errors import Fenced
from flows.ledger.line import Line

Row = Mapping[str, Any]
PATIENCE_LEASES = 4  # so long a statement is repeated: late is allowed while the token is ours, and `still` looks

BEGIN = """with o as (
    insert into ledger.operation (key, kind, state, plan, digest, parent, holder, lease_s, expires_at, actor,
        approved_by, prefect_run)
    values (%s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp() + %s * interval '1 s', %s, %s, %s) returning *
), h as (
    insert into ledger.hold (scope, operation) select s, o.id from o, unnest(%s::text[]) s order by s
) select * from o"""
KNOWN = "select *, clock_timestamp() as now from ledger.operation where key = %s"
OPEN = "select *, clock_timestamp() as now from ledger.operation where ended_at is null order by id desc"
HOLDING = """select o.*, h.scope, clock_timestamp() as now
    from ledger.hold h join ledger.operation o on o.id = h.operation where h.scope = any(%s) order by h.scope limit 1"""
RENEW = """update ledger.operation set expires_at = clock_timestamp() + lease_s * interval '1 s'
    where id = %s and token = %s and ended_at is null returning stop_asked"""
TAKE_OVER = """update ledger.operation set token = nextval('ledger.token'), holder = %s, attempts = attempts + 1,
    tried_at = clock_timestamp(), lease_s = %s, expires_at = clock_timestamp() + %s * interval '1 s',
    prefect_run = coalesce(%s, prefect_run)
    where id = %s and token = %s and expires_at = %s and ended_at is null and (expires_at < clock_timestamp()
        or expires_at > clock_timestamp() + 2 * lease_s * interval '1 s') returning *"""
MOVE = """update ledger.operation set state = %s, reason = coalesce(%s, reason)
    where id = %s and token = %s and ended_at is null returning id"""
SETTLE = """with s as (update ledger.operation set state = %s, reason = coalesce(%s, reason), trouble = null
    where id = %s and token = %s and ended_at is null returning id)
    select id from s union all
    select id from ledger.operation where id = %s and token = %s and state = %s"""
LET_GO = """update ledger.operation set trouble = %s, failures = failures + 1, expires_at = clock_timestamp(),
    tried_at = clock_timestamp() where id = %s and token = %s and ended_at is null returning id"""
STEPS = "select * from ledger.step where operation = %s order by position"
INTENT = """insert into ledger.step (operation, name, position, setting, arguments, want, before, back, token)
    values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    on conflict (operation, name) do update set token = excluded.token returning *"""
STEP = """update ledger.step set state = %s, outcome = coalesce(%s, outcome), token = %s
    where operation = %s and name = %s returning *"""


@dataclass(frozen=True)
class Beginning:
    """What a new operation's row says."""

    key: str
    kind: str
    committed: bool
    plan: JsonValue
    digest: str
    scopes: Sequence[str]
    prefect_run: UUID | None = None
    parent: int | None = None
    actor: str | None = None
    approved_by: str | None = None


@dataclass(frozen=True)
class Journal:
    """The journal of one operation as its holder writes it: every statement carries the token."""

    line: Line
    operation: int
    token: int
    lease_s: float
    lost: Callable[[], None]

    def renewed(self, line: Line) -> str | None:
        """Renew the lease over `line`; who asked to stop, if anybody. Raises Fenced, Unheard."""
        rows = line.ask(RENEW, [self.operation, self.token])
        if not rows:
            raise Fenced(self._taken())
        return rows[0]["stop_asked"]

    def steps(self) -> list[Row]:
        """The steps so far, in order."""
        return list(self._ask(STEPS, [self.operation]))

    def intent(self, step: Row) -> Row:
        """Before acting: where it stands, where it should go; a repeat keeps the first `before`."""
        jsons = [Jsonb(step[field]) for field in ("arguments", "want", "before")]
        values = [self.operation, step["name"], step["position"], step["setting"], *jsons, step["back"], self.token]
        return self._ask(INTENT, values)[0]

    def step(self, name: str, state: str, outcome: JsonValue = None) -> Row:
        """`done` with its outcome, `undoing`, `undone`."""
        return self._mine(STEP, [state, None if outcome is None else Jsonb(outcome), self.token, self.operation, name])

    def move(self, state: str, reason: str | None) -> None:
        """`committed` or `undoing`."""
        self._mine(MOVE, [state, reason, self.operation, self.token])

    def settle(self, state: str, reason: str | None) -> None:
        """`done` or `undone`: the scopes are free."""
        mine = [self.operation, self.token]
        self._mine(SETTLE, [state, reason, *mine, *mine, state])

    def let_go(self, trouble: str) -> None:
        """It stays open with its trouble, and may be taken over at once."""
        self._mine(LET_GO, [trouble, self.operation, self.token])

    def _mine(self, statement: LiteralString, values: Sequence[Any]) -> Row:
        rows = self._ask(statement, values)
        if not rows:
            self.lost()
            raise Fenced(self._taken())
        return rows[0]

    def _ask(self, statement: LiteralString, values: Sequence[Any]) -> Sequence[Row]:
        try:
            return self.line.ask(statement, values, patience_s=PATIENCE_LEASES * self.lease_s)
        except Fenced:
            self.lost()
            raise

    def _taken(self) -> str:
        return f"operation {self.operation} is no longer held with token {self.token}: nothing more is touched here"


class Unwritten:
    """The journal of an operation without a ledger: kept in memory, gone with the process, fencing nobody."""

    operation = None
    token = None

    def __init__(self) -> None:
        self._steps: dict[str, dict[str, Any]] = {}

    def steps(self) -> list[Row]:
        """The steps so far, in order."""
        return list(self._steps.values())

    def intent(self, step: Row) -> Row:
        """Before acting."""
        return self._steps.setdefault(step["name"], {"outcome": None, **step, "state": "intent"})

    def step(self, name: str, state: str, outcome: JsonValue = None) -> Row:
        """`done`, `undoing`, `undone`."""
        self._steps[name] |= {"state": state} | ({} if outcome is None else {"outcome": outcome})
        return self._steps[name]

    def move(self, state: str, reason: str | None) -> None:
        """Nobody else is told."""

    def settle(self, state: str, reason: str | None) -> None:
        """Nobody else is told."""

    def let_go(self, trouble: str) -> None:
        """Nobody is there to go on with it."""
        raise Refused(f"nobody finishes this without a ledger: {trouble}")
