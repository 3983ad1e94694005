"""The journalled part of pruning: each victim's papers first, then its objects.

Interrupted, it leaves garbage that nobody believes, never a backup that looks whole.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from flows import people
from flows.catalogue.grades import last_proven
from flows.catalogue.layout import MANIFEST, home_of
from flows.ledger import Entry, Operation, steps
from flows.prune.settings import Contents, OpenUpload, Papers
from flows.records import Plan

if TYPE_CHECKING:
    from flows.world import World

APPROVED_WITHIN = timedelta(seconds=people.APPROVAL_SECONDS, hours=1)  # and then a worker is to take the run up


class PrunePlan(Plan):
    """What goes: backups that no rule keeps, folders that never got a manifest, uploads that nobody finished."""

    stage: str
    database: str
    victims: tuple[str, ...]
    orphans: tuple[str, ...]
    uploads: tuple[tuple[str, str], ...]  # key and id


@steps("prune", holds=["{stage}/backups/{database}"], forward=True)
def remove(op: Operation, plan: PrunePlan) -> None:
    """Delete the victims; one that is needed again since the plan stays."""
    for victim in plan.victims:
        if op.begun(f"hide {victim}") or not needed_again(op.world, victim):
            op.ensure(f"hide {victim}", Papers(victim), False)
            op.ensure(f"delete {victim}", Contents(victim), 0)
            op.world.ledger.forget(victim)
    for orphan in plan.orphans:
        if op.begun(f"sweep {orphan}") or abandoned(op.world, orphan):
            op.ensure(f"sweep {orphan}", Contents(orphan), 0)
    for key, upload in plan.uploads:
        step, owner = f"abort {key} {upload}", home_of(op.world.stage).owner(key)
        if op.begun(step) or owner not in being_committed(op.world.ledger.open()):
            op.ensure(step, OpenUpload(key, upload), False)


def needed_again(world: "World", backup: str) -> bool:
    """Whether a backup that a prune chose became needed since: a restore reads it, or it is the last proven."""
    return backup in being_restored(world, world.ledger.open()) or backup == last_proven(
        world.ledger.backups(), world.ledger.proofs()
    )


def abandoned(world: "World", backup: str) -> bool:
    """Whether a folder is still an orphan: no open commit will put its manifest (asked first), and none has."""
    home = home_of(world.stage)
    return backup not in being_committed(world.ledger.open()) and home.of(backup) + MANIFEST not in Contents(
        backup
    ).keys(world)


def being_committed(open_operations: Sequence[Entry]) -> frozenset[str]:
    """The backups whose manifest an open operation still has to put: the key of a commit ends with the id."""
    return frozenset(each.key.rpartition(" ")[2] for each in open_operations if each.kind == "commit backup")


def being_restored(world: "World", open_operations: Sequence[Entry]) -> frozenset[str]:
    """The backups that restores read, or read once more when their swap is approved: a restore's key ends with the id.

    The open operations are to be asked for before this looks at the settled ones.
    """
    over = world.ledger.settled_within(APPROVED_WITHIN)
    swapped = {each.key.removesuffix("/swap") for each in over if each.kind == "swap"}
    waiting = [each for each in over if (each.kind, each.state) == ("restore", "done") and _is_to_swap(world, each)]
    unswapped = [each for each in waiting if each.key.partition("/restore/")[0] not in swapped]
    reading = [each for each in open_operations if each.kind == "restore"]
    return frozenset(each.key.rpartition("/")[2] for each in [*reading, *unswapped])


def _is_to_swap(world: "World", restore: Entry) -> bool:
    plan = world.ledger.plan(restore.key)
    return isinstance(plan, dict) and bool(plan["swap"])
