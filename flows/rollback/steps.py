"""The journalled part of a rollback: the target runs and is healthy, then the traffic goes to it."""

from flows.bake.tasks import go_live
from flows.effect import NotDone, actor
from flows.ledger import Operation, steps
from flows.rollback import tasks
from flows.rollback.plan import RollbackPlan
from flows.rollback.settings import Running, Traffic


@steps("rollback", holds=["{stage}/release"], urgent=True)
def go_back(op: Operation, plan: RollbackPlan) -> None:
    """A kept process needs no start; checked before traffic like a new release, as it may have died unseen."""
    release = plan.release(op.key, actor())
    op.world.ledger.releases.remember(release, op)
    if not op.committed:
        tasks.keep_telling(op.world, release)
    if plan.left_over:
        op.ensure(f"free {plan.slot}", Running(plan.slot), None)
    op.ensure(f"start {plan.slot}", Running(plan.slot), plan.commit)
    if not op.committed:
        tasks.await_healthy(op.world, plan.slot, plan.commit, op.still)
        if wrong := tasks.endpoints_answer(op.world, plan.slot):
            raise NotDone(f"{release.name} gets no traffic: {'; '.join(wrong)}")
        tasks.await_balancer(op.world, plan.slot, op.still)
    op.ensure(f"shift to {plan.slot}", Traffic(), plan.shares)
    if not op.committed:
        go_live(op.world, release, op, like=plan.taken_back)
    op.commit(f"{release.name} has the traffic again: {plan.reason}")
