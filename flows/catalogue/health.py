"""Whether the promise is kept: the newest backup against the RPO, the newest proof, reconcile's last sign of life.

The run that shows this fails when the RPO is broken, no proof came through for longer than is allowed, reconcile is
silent, or a backup is not what was stored.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from flows.catalogue.grades import Graded
from flows.verdict import Verdict
from flows.words import duration

SILENCE = timedelta(minutes=1)  # reconcile ticks every 5 s, and a spare run waits beside it


def health(  # noqa: PLR0913 - what was seen, and what was promised of it
    backups: Sequence[Graded],
    *,
    rpo: timedelta,
    proof_age: timedelta | None,
    ticked: datetime | None,
    now: datetime,
    wrong: Sequence[str] = (),
) -> Verdict:
    """Go: the promise is kept. The reason says what is broken, else the newest backup and proof; evidence is all of it.

    Args:
        backups: all of one database.
        rpo: how old the newest backup may be.
        proof_age: how old the newest proven backup may be; None: the stage proves none.
        ticked: when reconcile last looked at all open operations; None: never.
        now: the time by the ledger's clock.
        wrong: a sentence for each backup that a verification found not to be what was stored.
    """
    accused = (Verdict(go=False, reason=sentence) for sentence in wrong)
    facts = (_backup(backups, rpo, now), _proof(backups, proof_age, now), _reconcile(ticked, now), *accused)
    broken = [fact.reason for fact in facts if not fact.go]
    lines = tuple(fact.reason for fact in facts)
    return Verdict(go=not broken, reason="; ".join(broken or lines[:2]), evidence=lines)


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


def _proof(backups: Sequence[Graded], limit: timedelta | None, now: datetime) -> Verdict:
    """Without any proof the time runs from the oldest backup that could have one."""
    there = sorted((backup for backup in backups if backup.usable and backup.at <= now), key=lambda backup: backup.at)
    proven = [backup for backup in there if backup.grade == "proven"]
    waiting = sum(backup.grade == "pending" for backup in there)
    asked = f"{waiting} asked for and not through" if waiting else ""
    age = now - (proven[-1:] or there[:1])[0].at if there else timedelta(0)
    if limit is not None and age > limit:
        sentence = f"no proof for {duration(age)}, {asked or 'none asked for'}"
        return Verdict(
            go=False, reason=f"{sentence} ({duration(limit)} are allowed): does a worker serve queue restore?"
        )
    newest = f"the newest proven backup, {proven[-1].id}, is {duration(age)} old" if proven else ""
    return Verdict(go=True, reason=", ".join(part for part in (newest or "no backup is proven yet", asked) if part))


def _reconcile(ticked: datetime | None, now: datetime) -> Verdict:
    if ticked is None:
        return Verdict(go=False, reason="reconcile has never run: start a worker")
    silence = now - ticked
    if silence > SILENCE:
        return Verdict(go=False, reason=f"reconcile is silent for {duration(silence)}: is a worker running?")
    return Verdict(go=True, reason=f"reconcile ticked {duration(silence)} ago")
