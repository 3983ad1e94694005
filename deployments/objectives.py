"""Whether the declared schedules can keep the promised RPO: plain values in, a verdict out.

The data that a disaster takes is at worst as old as the last backup that was complete: the longest gap between two
starts, and the time that a backup takes.
"""

import itertools
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect._vendor.croniter import croniter

from flows.verdict import Verdict

HORIZON = timedelta(days=63)  # two monthly runs lie in it whatever the month


def keeps_rpo(crons: Sequence[str], durations: Sequence[timedelta], rpo: timedelta, now: datetime) -> Verdict:
    """Interval and 95th percentile of the duration against the RPO."""
    if not crons:
        return Verdict(go=True, reason=f"no backup is scheduled: the RPO of {_short(rpo)} rests on people")
    gap, slow = longest_gap(crons, now), percentile(durations, 0.95)
    took = (
        f"95 % of {len(durations)} backups took at most {_short(slow)}" if durations else "no backup has been timed yet"
    )
    sentence = f"backups start at most {_short(gap)} apart, {took}: at worst {_short(gap + slow)} are lost"
    if gap + slow <= rpo:
        return Verdict(go=True, reason=f"{sentence}, the RPO is {_short(rpo)}")
    return Verdict(
        go=False,
        reason=f"{sentence}, more than the RPO of {_short(rpo)}: schedule a more frequent kind, or promise less",
    )


def longest_gap(crons: Sequence[str], now: datetime) -> timedelta:
    """The longest time between two starts, of all schedules together (UTC)."""
    found = [_starts(cron, now) for cron in crons]
    known_until = min(starts[-1] for starts in found)
    starts = sorted({start for starts in found for start in starts if start <= known_until})
    return max((later - earlier for earlier, later in itertools.pairwise(starts)), default=HORIZON)


def percentile(values: Sequence[timedelta], share: float) -> timedelta:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else timedelta(0)


def _starts(cron: str, now: datetime) -> list[datetime]:
    moments: Any = croniter(cron, now)  # Prefect's own, so that both count alike
    found: list[datetime] = []
    while not found or found[-1] < now + HORIZON:
        found.append(moments.get_next(datetime))
    return found


def _short(span: timedelta) -> str:
    """As people say it: 30m, 26h, 1h 5m, 42s."""
    minutes, seconds = divmod(round(span.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        " ".join(f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if number) or "0s"
    )
