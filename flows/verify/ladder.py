"""Decides which rungs of the verify ladder are due: 0 daily for all, 1 and 2 once for a new one and then monthly.

0 signature, place, sizes and checksums in the store. 1 every byte read: decrypts, decompresses, is what was stored.
2 the archive lists every table, rows and hash of every table are the manifest's. Storage rots, so good news gets old.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flows.catalogue.accusations import not_as_stored
from flows.records import Backup, Check

DAILY = timedelta(hours=23)  # a daily run that starts a little earlier still finds it due
MONTHLY = timedelta(days=30)
READ_ALL = 2


@dataclass(frozen=True)
class Due:
    """One backup and the highest rung to climb, with the reason."""

    backup: str
    rung: int
    reason: str


def due(backups: Sequence[Backup], checks: Sequence[Check], now: datetime) -> list[Due]:
    """What to verify now, newest first; a failed rung is due again."""
    wrong = {each.backup: each for each in not_as_stored(checks)}
    newest_first = sorted((b for b in backups if b.state == "complete"), key=lambda b: b.at, reverse=True)
    return [each for each in (_due(b.id, checks, wrong.get(b.id), now) for b in newest_first) if each]


def _due(backup: str, checks: Sequence[Check], wrong: Check | None, now: datetime) -> Due | None:
    good = [c for c in checks if c.backup == backup and c.ok]
    read_all = max((c.at for c in good if c.rung >= READ_ALL), default=None)
    looked = max((c.at for c in good), default=None)
    if read_all is None:
        return Due(backup, READ_ALL, "its bytes were never read")
    if now - read_all >= MONTHLY:
        return Due(backup, READ_ALL, f"its bytes were read {(now - read_all).days} days ago")
    if wrong is not None:
        return Due(backup, wrong.rung, f"it was not what was stored {(now - wrong.at).days} days ago")
    if looked is None or now - looked >= DAILY:
        return Due(backup, 0, "looked at daily")
    return None
