"""Decides which backup is proven when nobody named one: first a proof that was asked for and died, then the newest."""

from collections.abc import Collection, Sequence

from flows.catalogue.grades import Graded
from flows.records import Kind


def newest_unproven(backups: Sequence[Graded], tried: Collection[str], wanted: Collection[Kind]) -> str | None:
    """The id of the backup whose turn it is; None when there is nothing to prove.

    Args:
        backups: all of one database, with the proofs that were asked for.
        tried: ids of those that have any proof, also one that could not tell.
        wanted: the kinds that the policy wants proven at all.
    """
    died = [each for each in backups if each.grade == "pending"]
    never = [each for each in backups if each.grade == "unproven" and each.id not in tried and each.kind in wanted]
    return max(died or never, key=lambda each: (each.at, each.id)).id if died or never else None
