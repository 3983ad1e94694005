"""Reconcile's pass: who is dead, and each dead one's operation settled in a thread of its own.

Invariant: an operation is taken over only when its lease ran out and it stood still on *our* clock as well; so neither
a ledger's clock that jumps nor a late renewal undoes a living deployment. The taking itself is one statement that names
what was seen: of several takers one wins.
"""

import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from flows.ledger.engine import mark_crashed
from flows.ledger.errors import Fenced, Unheard
from flows.ledger.hands import Hands, Settled, sentence
from flows.ledger.line import Line
from flows.ledger.migrate import refuse_newer
from flows.ledger.operation import Operation
from flows.ledger.statements import OPEN, Row
from flows.ledger.steps import LISTS
from flows.redact import hide

COURTESY = """select set_config('idle_session_timeout', %s, false),
    (select coalesce(max(version), 0) from ledger.migration) as version,
    pg_try_advisory_lock(hashtextextended('shipkeeper reconcile', 0)) as alone"""
TICK = """insert into ledger.tick as t (name, at) values (%s, clock_timestamp())
    on conflict (name) do update set at = excluded.at, operation = null, token = null"""
LONGEST_BACKOFF_S = 300
LINGER_S = 1.0  # a pass waits this long for what it started, so that it can say how it ended


class Seen(NamedTuple):
    """What an operation's lease was when it was last seen to change, on our own clock."""

    token: int
    expires_at: datetime
    since: float


def stands_still_s(row: Row) -> float | None:
    """How long it must have stood still before its holder counts as dead; None: its lease is good.

    A lease that ends later than two leases from now was written before the ledger's clock went back: nothing but its
    standing still can tell.
    """
    lease = timedelta(seconds=row["lease_s"])
    if row["expires_at"] < row["now"]:
        return row["lease_s"] / 4
    return 0.8 * row["lease_s"] if row["expires_at"] > row["now"] + 2 * lease else None


def waits(row: Row) -> bool:
    """Whether its last failure is too young to try again: 2, 4 ... 300 s."""
    backoff = min(2 ** min(row["failures"], 9), LONGEST_BACKOFF_S) if row["failures"] else 0
    return row["now"] - row["tried_at"] < timedelta(seconds=backoff)


def in_turn(dead: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Urgent ones first, then the newest; a parent waits for its open child, unless that has trouble of its own."""
    waiting = {row["parent"] for row in rows if row["parent"] and not row["failures"]}
    ready = [row for row in dead if row["id"] not in waiting]
    return sorted(ready, key=lambda row: (not _urgent(row), -row["id"]))


class Reconciler:
    """One process' passes; it remembers what it saw, and which operations its threads are at."""

    def __init__(self, hands: Hands, line: Line, tick_s: float) -> None:
        self._hands, self._line, self._tick_s = hands, line, tick_s
        self._seen: dict[int, Seen] = {}
        self._at_work: dict[int, threading.Thread] = {}
        self._said: list[str] = []

    def tick(self) -> list[str]:
        """One pass; the sentences of what was done since the last one. Refused when the ledger is newer than this."""
        turn = self._line.ask(COURTESY, [f"{round(3000 * self._tick_s)}ms"], patience_s=1)[0]
        refuse_newer(self._hands.address, turn["version"])  # it may have grown while this connection lived
        if not turn["alone"]:
            return [*self._news(), "another reconcile is at work: this one waits"]
        self._line.ask(TICK, ["reconcile"])
        rows = self._line.ask(OPEN)
        started = [self._start(row) for row in in_turn(self._dead(rows), rows)]
        end = time.monotonic() + LINGER_S
        for thread in started:
            thread.join(max(0.0, end - time.monotonic()))
        return self._news()

    def _dead(self, rows: Sequence[Row]) -> list[Row]:
        self._at_work = {id_: thread for id_, thread in self._at_work.items() if thread.is_alive()}
        self._seen = {row["id"]: self._look(row) for row in rows}
        return [row for row in rows if row["id"] not in self._at_work and not waits(row) and self._is_dead(row)]

    def _look(self, row: Row) -> Seen:
        seen = self._seen.get(row["id"])
        if seen and (seen.token, seen.expires_at) == (row["token"], row["expires_at"]):
            return seen
        return Seen(row["token"], row["expires_at"], time.monotonic())

    def _is_dead(self, row: Row) -> bool:
        still_s = stands_still_s(row)
        return still_s is not None and time.monotonic() - self._seen[row["id"]].since >= still_s

    def _start(self, row: Row) -> threading.Thread:
        thread = threading.Thread(target=self._settle, args=[row], name=f"reconcile-{row['id']}", daemon=True)
        self._at_work[row["id"]] = thread
        thread.start()
        return thread

    def _settle(self, row: Row) -> None:
        what = f"{row['kind']} {row['key']}"
        try:
            op = self._hands.take(row)
            if op is None:
                return
            self._said.append(f"took over {what} from {row['holder']}, {row['state']}")
            if marked := mark_crashed(row["prefect_run"]):
                self._said.append(marked)
            settled = self._hands.finish(op, row)
        except (Fenced, Unheard) as error:
            self._said.append(f"lost {what} again: {error}")
        except Exception as error:  # noqa: BLE001 - it is written down as trouble; a thread has nobody to raise to
            self._said.append(hide(f"{what} cannot be settled now: {sentence(error)}"))
        else:
            self._said.append(f"settled {what}: {op.state}, {op.reason}")
            self._tell(op, row, settled)

    def _tell(self, op: Operation, row: Row, settled: Settled) -> None:
        """That people could not be told undoes nothing of what is settled."""
        steps = LISTS.get(row["kind"])
        if steps is None or steps.told is None:
            return
        try:
            steps.told(op.world, steps.read_plan(row["plan"]), settled)
        except Exception as error:  # noqa: BLE001 - said like all that a pass did
            self._said.append(hide(f"nobody was told of {row['kind']} {row['key']}: {sentence(error)}"))

    def _news(self) -> list[str]:
        news, self._said = self._said, []
        return news


def _urgent(row: Row) -> bool:
    steps = LISTS.get(row["kind"])
    return bool(steps and steps.urgent)
