"""The journalled parts of a restore: a new database that is made, filled, compared and marked; and, apart, the swap.

A death before the comparison drops the new database again; only one with its mark is whole. The swap is approved before
it begins and goes only forward: renaming back later would lose what was written in between.
"""

from flows.effect import NotDone
from flows.ledger import Operation, steps
from flows.records import Plan
from flows.restore.plan import RestorePlan, mark_of
from flows.restore.settings import Live, Mark, NewDatabase, Open
from flows.restore.tasks import fill


class SwapPlan(Plan):
    """Which database leaves its name, which takes it, and what the old one is called from then on."""

    stage: str
    server: str  # the PostgresServer block; empty: the stage's own
    backup: str
    approved_by: str
    live: str
    new: str
    old: str


@steps("restore", holds=["{stage}/database/{new}"])
def bring_back(op: Operation, plan: RestorePlan) -> None:
    """Make the database, fill and compare it, commit, open and mark it."""
    op.ensure(f"create {plan.new}", NewDatabase(plan.server_block, plan.new, dict(plan.facts)), True)
    if not op.committed:
        fill(op.world, plan, op.still, f"shipkeeper {op.id} {op.token}")
    op.commit("every table was compared with the manifest")
    op.ensure(f"mark {plan.new}", Mark(plan.server_block, plan.new), mark_of(plan.backup, op.id))


@steps("swap", holds=["{stage}/database/{live}"], urgent=True)
def swap_in(op: Operation, plan: SwapPlan) -> None:
    """Rename both in one transaction, then close the old one, which is kept."""
    names = Live(plan.server, plan.live, plan.new, plan.old)
    if not op.committed and (found := names.read(op.world)) != "before":
        raise NotDone(f"the names are not what was approved, {found}: nothing was swapped")
    op.commit(f"approved by {plan.approved_by}")
    op.ensure(f"rename {plan.new} to {plan.live}", names, "swapped")
    op.ensure(f"close {plan.old}", Open(plan.server, plan.old), False)


def swap_plan(plan: RestorePlan, approved_by: str) -> SwapPlan:
    """The swap that a restore's plan named and a person approved."""
    return SwapPlan(
        stage=plan.stage, server=plan.server_block, backup=plan.backup, approved_by=approved_by,
        live=plan.swap, new=plan.new, old=plan.old,
    )  # fmt: skip
