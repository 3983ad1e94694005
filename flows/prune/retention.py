"""Which backups stay, each with the rules that keep it. Pure; who deletes looks at every victim once more.

What holds in every plan: the last proven backup stays, as do held, locked and pending ones, those that a restore reads,
the newest `keep_last`, and every one stamped later than now. A grade below proven never makes a proven one drop. Adding
a newer backup never revives a dropped one; a plan made of what a plan kept keeps all of it; a clock set back drops
nothing more. Windows count back from the newest usable backup, so a system that stopped loses nothing.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from flows.catalogue.grades import Graded
from flows.records import Kind
from flows.stage import Retention
from flows.verdict import Verdict

LENGTH: dict[Kind, int] = {
    "frequent": 0,
    "on-demand": 1,
    "before-deploy": 1,
    "before-shutdown": 1,
    "daily": 2,
    "weekly": 3,
    "monthly": 4,
}
EXTRA: frozenset[Kind] = frozenset({"on-demand", "before-deploy", "before-shutdown"})


Reason = tuple[str, datetime | None]  # a rule's words, and when it ends


@dataclass(frozen=True)
class Row:
    """A backup, whether it stays, and every rule that says so; of a dropped one, why nothing keeps it.

    `until`: when the last of its rules ends, counted as the windows are; None where a rule without an end keeps it.
    """

    backup: Graded
    keep: bool
    reasons: tuple[str, ...]
    until: datetime | None = None


@dataclass(frozen=True)
class PrunePlan:
    """Whether anything may be dropped at all, and what becomes of every backup. Only `drops` may be deleted."""

    verdict: Verdict
    rows: tuple[Row, ...]

    @property
    def drops(self) -> tuple[Graded, ...]:
        """What may go, oldest first; nothing where the verdict says no."""
        return tuple(row.backup for row in self.rows if not row.keep) if self.verdict.go else ()


@dataclass(frozen=True)
class Circumstances:
    """What else bears on pruning beside the backups themselves."""

    wants_proofs: bool = True  # the policy asks for them for some kind
    unreadable: tuple[str, ...] = ()  # manifests or folders that could not be read
    wrong: tuple[str, ...] = ()  # sentences of backups that a verification found not to be what was stored
    restoring: frozenset[str] = frozenset()  # ids that restores read, or read again once their swap is approved
    really: bool = False  # a person typed that so many may go at once


@dataclass(frozen=True)
class _Rule:
    """Keep one representative in each period of UTC time while it is younger than the window."""

    name: str
    kind: Kind  # a backup of at least this length represents the period before a shorter one
    period: Callable[[datetime], str]
    window: timedelta


def prune_plan(
    backups: Sequence[Graded], policy: Retention, now: datetime, circumstances: Circumstances | None = None
) -> PrunePlan:
    """What becomes of all backups of one database, and whether to prune at all."""
    around = circumstances or Circumstances()
    rows = plan(backups, policy, now, restoring=around.restoring)
    drops = sum(not row.keep for row in rows)
    obstacles = _obstacles(backups, policy, now, around)
    stored = [row for row in rows if row.backup.grade != "failed"]  # of a failed one there is only its cause to lose
    going = sum(not row.keep for row in stored)
    if going * 100 > policy.max_drop_percent * len(stored) and not around.really:
        obstacles.append(
            f"{going} of {len(stored)} backups would go at once, more than {policy.max_drop_percent} %:"
            " look at them, then ask again with really"
        )
    return PrunePlan(_verdict(obstacles, drops, len(rows)), rows)


def plan(
    backups: Iterable[Graded], policy: Retention, now: datetime, *, restoring: Collection[str] = ()
) -> tuple[Row, ...]:
    """Every backup, oldest first, with whether it stays and why. The order of the input does not matter."""
    ordered = sorted(backups, key=_age_order)
    past = [backup for backup in ordered if backup.at <= now]
    usable = [backup for backup in past if backup.usable]
    ref = usable[-1].at if usable else now
    reasons: dict[str, list[Reason]] = {backup.id: [] for backup in ordered}
    for rule in _rules(policy):
        for backup, reason in _representatives(rule, usable, ref):
            reasons[backup.id].append((reason, backup.at + rule.window))
    for backup in usable:
        if backup.kind in EXTRA and backup.at > ref - policy.extra:
            reasons[backup.id].append(("extra", backup.at + policy.extra))
    for backup, reason in _always(ordered, usable, policy, now, restoring):
        reasons[backup.id].append((reason, None))
    for backup in ordered:
        if not backup.usable and (reason := _evidence(backup, ordered, policy, now)):
            reasons[backup.id].append((reason, None))
    return tuple(_row(backup, reasons[backup.id]) for backup in ordered)


def _verdict(obstacles: Sequence[str], drops: int, of: int) -> Verdict:
    if obstacles:
        return Verdict(go=False, reason=f"nothing is pruned: {obstacles[0]}", evidence=tuple(obstacles))
    if not drops:
        return Verdict(go=True, reason=f"nothing to drop: all {of} stay")
    return Verdict(go=True, reason=f"drop {drops} of {of} backups, {of - drops} stay")


def _age_order(backup: Graded) -> tuple[datetime, str]:
    return backup.at, backup.id


def _rules(policy: Retention) -> tuple[_Rule, ...]:
    """ISO weeks: 2026-12-31 and 2027-01-01 are both in 2026-W53."""
    return (
        _Rule("hourly", "frequent", lambda at: f"{at:%Y-%m-%dT%HZ}", policy.hourly),
        _Rule("daily", "daily", lambda at: f"{at:%Y-%m-%d}", policy.daily),
        _Rule("weekly", "weekly", lambda at: f"{at:%G-W%V}", policy.weekly),
        _Rule("monthly", "monthly", lambda at: f"{at:%Y-%m}", policy.monthly),
    )


def _representatives(rule: _Rule, usable: Sequence[Graded], ref: datetime) -> Iterable[tuple[Graded, str]]:
    """One of each period, chosen among all its proven and unproven ones: proven first, then long enough, then late."""
    settled = [backup for backup in usable if backup.grade != "pending"]
    for period, inside in groupby(settled, key=lambda backup: rule.period(backup.at)):
        chosen = max(inside, key=lambda backup: _worth(backup, rule))
        if chosen.at > ref - rule.window:
            yield chosen, f"{rule.name} {period}"


def _worth(backup: Graded, rule: _Rule) -> tuple[bool, bool, datetime, int, str]:
    length = LENGTH[backup.kind]
    return backup.grade == "proven", length >= LENGTH[rule.kind], backup.at, length, backup.id


def _always(
    ordered: Sequence[Graded], usable: Sequence[Graded], policy: Retention, now: datetime, restoring: Collection[str]
) -> Iterable[tuple[Graded, str]]:
    """What stays whatever the periods say."""
    proven = [backup for backup in usable if backup.grade == "proven"]
    yield from ((backup, "last proven") for backup in proven[-1:])
    yield from ((backup, f"last {policy.keep_last}") for backup in usable[-policy.keep_last :])
    for backup in ordered:
        if backup.at > now:
            yield backup, "future: stamped later than now"
        if backup.held:
            yield backup, "held"
        if backup.locked_until and backup.locked_until > now:
            yield backup, f"locked until {backup.locked_until:%Y-%m-%dT%H:%MZ}"
        if backup.grade == "pending":
            yield backup, "pending: its proof is not through"
        if backup.id in restoring:
            yield backup, "read by a restore that is open or may still be swapped in"


def _evidence(backup: Graded, ordered: Sequence[Graded], policy: Retention, now: datetime) -> str:
    """Why a disproven or failed one stays to be looked at; empty when it may go."""
    judged = backup.judged_at or backup.at
    if now < judged + policy.evidence:
        return f"evidence until {judged + policy.evidence:%Y-%m-%dT%H:%MZ}"
    if not any(other.grade == "proven" and backup.at < other.at <= now for other in ordered):
        return "evidence: nothing proven is newer"
    return ""


def next_expiry(rows: Iterable[Row]) -> Row | None:
    """The backup that stays and leaves first; None while every one is kept by a rule without an end."""
    leaving = [row for row in rows if row.keep and row.until]
    return min(leaving, key=lambda row: (row.until or row.backup.at, row.backup.id), default=None)


def _row(backup: Graded, reasons: Sequence[Reason]) -> Row:
    if reasons:
        ends = [end for _, end in reasons]
        until = None if None in ends else max(end for end in ends if end)
        return Row(backup, keep=True, reasons=tuple(reason for reason, _ in reasons), until=until)
    why = "past every rule" if backup.usable else f"{backup.grade}, and looked at long enough"
    return Row(backup, keep=False, reasons=(why,))


def _obstacles(backups: Sequence[Graded], policy: Retention, now: datetime, around: Circumstances) -> list[str]:
    """Why nothing at all is pruned: something is wrong, and what is there may be all that is left."""
    ordered = sorted(backups, key=_age_order)
    obstacles = [f"the catalogue could not be read whole: {name}" for name in around.unreadable]
    obstacles += around.wrong
    future = [backup for backup in ordered if backup.at > now]
    if future:
        obstacles.append(f"it is {now:%Y-%m-%dT%H:%MZ}, and {future[-1].id} was made later: look at the clocks")
    past = [backup for backup in ordered if backup.at <= now]
    if past and not past[-1].usable:
        obstacles.append(f"the newest backup, {past[-1].id}, is {past[-1].grade}")
    obstacles += _shrinkage([backup for backup in past if backup.usable], policy)
    if backups and around.wants_proofs and not any(backup.grade == "proven" for backup in backups):
        obstacles.append("no backup is proven, though the policy asks for proofs")
    return obstacles


def _shrinkage(usable: Sequence[Graded], policy: Retention) -> list[str]:
    """The newest against the one before it: a table emptied by mistake must not push out the backups that hold it."""
    if len(usable) < 2:  # noqa: PLR2004 (nothing to compare)
        return []
    before, newest = usable[-2:]
    sizes = {"rows": (before.rows, newest.rows), "stored bytes": (before.stored_bytes, newest.stored_bytes)}
    return [
        f"{newest.id} has {found} {what}, {before.id} had {was}: more than {policy.max_shrink_percent} % fewer"
        for what, (was, found) in sizes.items()
        if (was - found) * 100 > policy.max_shrink_percent * was
    ]
