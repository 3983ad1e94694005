"""Whether a backup is to be proven: the stage's policy for its kind, judged by the earlier backups of that kind.

`every`, `every 4th` (the first, and whenever three went by without), `weekly` (the first of an ISO week), `never`.
What counts is that a proof was asked for: one that died is found by the daily proof of the newest unproven backup.
"""

import re
from collections.abc import Iterable
from datetime import datetime

from flows.records import Backup
from flows.verdict import Verdict

_NTH = re.compile(r"every (\d+)(?:st|nd|rd|th)")


def wants_proof(backup: Backup, history: Iterable[Backup], policy: str) -> Verdict:
    """Whether to ask for a proof of this backup; `history` may hold all backups, itself and other kinds too."""
    if backup.state == "failed":
        return Verdict(go=False, reason=f"{backup.id} failed: there is nothing to prove")
    if policy == "every":
        return Verdict(go=True, reason=f"every {backup.kind} backup is proven")
    if policy == "never":
        return Verdict(go=False, reason=f"a {backup.kind} backup is never proven")
    earlier = _earlier(backup, history)
    if policy == "weekly":
        return _weekly(backup, earlier)
    if found := _NTH.fullmatch(policy):
        return _nth(backup, earlier, int(found[1]), policy)
    raise ValueError(f"no policy {policy!r}: every, every 4th, weekly or never")


def _earlier(backup: Backup, history: Iterable[Backup]) -> list[Backup]:
    """Complete ones of the kind, newest first."""
    same = [one for one in history if one.kind == backup.kind and one.state == "complete" and one.id != backup.id]
    return sorted((one for one in same if one.at <= backup.at), key=lambda one: (one.at, one.id), reverse=True)


def _weekly(backup: Backup, earlier: Iterable[Backup]) -> Verdict:
    week = _week(backup.at)
    for one in earlier:
        if one.proof_asked_at and _week(one.at) == week:
            return Verdict(go=False, reason=f"one {backup.kind} backup a week is proven: {one.id} is that of {week}")
    return Verdict(go=True, reason=f"one {backup.kind} backup a week is proven, and {week} has none yet")


def _nth(backup: Backup, earlier: Iterable[Backup], nth: int, policy: str) -> Verdict:
    unasked = 0
    for one in earlier:
        if one.proof_asked_at:
            break
        unasked += 1
    else:
        return Verdict(go=True, reason=f"{policy} {backup.kind} backup is proven, and none was yet")
    place = unasked + 1
    verb = "is" if place >= nth else "is not"
    return Verdict(go=place >= nth, reason=f"{policy} {backup.kind} backup is proven; this {verb} it, number {place}")


def _week(at: datetime) -> str:
    return f"{at:%G-W%V}"
