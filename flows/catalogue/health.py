"""Whether the promise is kept: the newest backup against the RPO, the newest proof, reconcile's last sign of life.

The run that shows this fails when the RPO is broken, reconcile is silent, or a backup is not what was stored; an old
proof is said, and fails nothing.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from flows.catalogue.grades import Graded
from flows.verdict import Verdict
from flows.words import duration

SILENCE = timedelta(minutes=1)  # reconcile ticks every 5 s, and a spare run waits beside it


def health(
    backups: Sequence[Graded], *, rpo: timedelta, ticked: datetime | None, now: datetime, wrong: Sequence[str] = ()
) -> Verdict:
    """Go: the promise is kept. The reason names what is broken, else the newest backup; evidence is a line a fact.

    Args:
        backups: all of one database.
        rpo: how old the newest backup may be.
        ticked: when reconcile last looked at all open operations; None: never.
        now: the time by the ledger's clock.
        wrong: a sentence for each backup that a verification found not to be what was stored.
    """
    accused = (Verdict(go=False, reason=sentence) for sentence in wrong)
    facts = (_backup(backups, rpo, now), _proof(backups, now), _reconcile(ticked, now), *accused)
    broken = [fact.reason for fact in facts if not fact.go]
    lines = tuple(fact.reason for fact in facts)
    return Verdict(go=not broken, reason="; ".join(broken) or lines[0], evidence=lines)


def _backup(backups: Sequence[Graded], rpo: timedelta, now: datetime) -> Verdict:
    times = [backup for backup in backups if backup.usable and backup.at <= now]
    if not times:
        return Verdict(go=False, reason="there is no backup")
    newest = max(times, key=lambda backup: backup.at)
    age = now - newest.at
    sentence = f"the newest backup, {newest.id}, is {duration(age)} old"
    if age <= rpo:
        return Verdict(go=True, reason=f"{sentence}, {duration(rpo)} are allowed")
    return Verdict(go=False, reason=f"{sentence}, more than the {duration(rpo)} that are allowed (RPO)")


def _proof(backups: Sequence[Graded], now: datetime) -> Verdict:
    proven = [backup for backup in backups if backup.grade == "proven" and backup.at <= now]
    if not proven:
        return Verdict(go=True, reason="no backup is proven yet")
    newest = max(proven, key=lambda backup: backup.at)
    return Verdict(go=True, reason=f"the newest proven backup, {newest.id}, is {duration(now - newest.at)} old")


def _reconcile(ticked: datetime | None, now: datetime) -> Verdict:
    if ticked is None:
        return Verdict(go=False, reason="reconcile has never run: start a worker")
    silence = now - ticked
    if silence > SILENCE:
        return Verdict(go=False, reason=f"reconcile is silent for {duration(silence)}: is a worker running?")
    return Verdict(go=True, reason=f"reconcile ticked {duration(silence)} ago")
