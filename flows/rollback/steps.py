"""The journalled part of a rollback: the target runs and is healthy, then the traffic goes to it."""

from flows.bake.tasks import go_live
from flows.effect import NotDone, actor
from flows.ledger import Operation, steps
from flows.rollback.asking import await_balancer, await_healthy, endpoints_answer, released
from flows.rollback.plan import RollbackPlan, blame
from flows.rollback.settings import Running, Traffic
from flows.rollback.telling import keep_telling, tell_for_the_dead


@steps("rollback", holds=["{stage}/release"], urgent=True, told=tell_for_the_dead)
def go_back(op: Operation, plan: RollbackPlan) -> None:
    """A kept process needs no start; checked before traffic like a new release, as it may have died unseen.

    What was taken back comes into quarantine: nothing goes back to it, nor deploys it again.
    """
    release = released(op.world, op.key) or plan.release(op.key, actor())
    op.world.ledger.releases.remember(release, op)
    if not op.committed:
        keep_telling(op.world, release)
    if plan.left_over:
        op.ensure(f"free {plan.slot}", Running(plan.slot), None)
    op.ensure(f"start {plan.slot}", Running(plan.slot), plan.commit)
    if not op.committed:
        await_healthy(op.world, plan.slot, plan.commit, op.still)
        if wrong := endpoints_answer(op.world, plan.slot):
            raise NotDone(f"{release.name} gets no traffic: {'; '.join(wrong)}")
        await_balancer(op.world, plan.slot, op.still)
    op.ensure(f"shift to {plan.slot}", Traffic(), plan.shares)
    if not op.committed:
        go_live(op.world, release, op, like=plan.taken_back)
    op.commit(f"{release.name} has the traffic again: {plan.reason}")
    if plan.blamed:
        op.world.ledger.releases.quarantine(plan.previous, blame(plan.blamed, release.actor, plan.reason))
