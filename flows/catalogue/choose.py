"""Which backup is meant: an id, `latest-proven`, or a time. Answers with the backup and a word about it, or why none.

A time means the newest usable backup whose snapshot is not later; that an older one is proven is said, not decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.catalogue.grades import Graded
from flows.records import is_id
from flows.stage_errors import nearest

LATEST_PROVEN = "latest-proven"


@dataclass(frozen=True)
class Choice:
    """The backup that was meant, or None; `reason` is one sentence either way."""

    backup: Graded | None
    reason: str


def choose(which: str, backups: Sequence[Graded]) -> Choice:
    """The backup that `which` means among those of one database."""
    ordered = sorted(backups, key=lambda backup: (backup.at, backup.id))
    if which == LATEST_PROVEN:
        return _latest_proven(ordered)
    if is_id(which):
        return _by_id(which, ordered)
    time = _time(which)
    if time is None:
        forms = f"an id, {LATEST_PROVEN}, or a time such as 2026-11-24T02:00Z"
        known = [LATEST_PROVEN, *(backup.id for backup in ordered)]
        return Choice(None, f"which names no backup: expected {forms}, found {which!r}{nearest(which, known)}")
    assumed = "" if time.tzinfo else ", taken as UTC"
    return _as_of(time if time.tzinfo else time.replace(tzinfo=UTC), ordered, assumed)


def _latest_proven(ordered: Sequence[Graded]) -> Choice:
    proven = [backup for backup in ordered if backup.grade == "proven"]
    if proven:
        newer = [backup for backup in ordered if backup.usable and backup.at > proven[-1].at]
        more = f"; {len(newer)} newer are not proven, the newest {newer[-1].id}" if newer else ""
        return Choice(proven[-1], f"{proven[-1].id}: the newest proven backup{more}")
    if not ordered:
        return Choice(None, "no backup at all: the catalogue is empty")
    return Choice(None, f"no backup is proven: prove one, or name one by its id; the newest is {_named(ordered[-1])}")


def _by_id(which: str, ordered: Sequence[Graded]) -> Choice:
    found = next((backup for backup in ordered if backup.id == which), None)
    if found is None:
        there = f"{len(ordered)} are known, the newest is {ordered[-1].id}" if ordered else "the catalogue is empty"
        return Choice(None, f"no backup {which}: {there}{nearest(which, [backup.id for backup in ordered])}")
    if not found.usable:
        return Choice(None, f"{_named(found)}: choose another")
    return Choice(found, _named(found))


def _as_of(time: datetime, ordered: Sequence[Graded], assumed: str) -> Choice:
    usable = [backup for backup in ordered if backup.usable]
    wanted = f"{_moment(time)}{assumed}"
    if not usable:
        return Choice(None, f"no backup before {wanted}: no complete one is known")
    before = [backup for backup in usable if backup.at <= time]
    if not before:
        return Choice(None, f"no backup before {wanted}: the first is {usable[0].id}, of {_moment(usable[0].at)}")
    found = before[-1]
    reason = f"{_named(found)}: the newest of {wanted} or before, with the state of {_moment(found.at)}"
    proven = [backup for backup in before if backup.grade == "proven"]
    if found.grade == "proven":
        return Choice(found, reason)
    return Choice(found, f"{reason}; the newest proven one before is {proven[-1].id if proven else 'none'}")


def _named(backup: Graded) -> str:
    return f"{backup.id} ({backup.reason or backup.grade})"


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _moment(time: datetime) -> str:
    """To the minute where the seconds are none."""
    utc = time.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%SZ}" if utc.second else f"{utc:%Y-%m-%dT%H:%MZ}"
