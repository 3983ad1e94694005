"""The journalled part of a deploy: migrated, started, checked before traffic, shifted, baked; undone when it is bad.

Before the commit the undo *is* the rollback: the traffic goes back in one command, the new release is drained and
stopped. After it the release stays; the one before it is kept in its slot, drained and running, as the way back.
"""

from functools import partial

from flows.bake.sentence import sentence
from flows.bake.tasks import go_live, watch
from flows.deploy import tasks
from flows.deploy.plan import DeployPlan
from flows.deploy.settings import Migrated
from flows.effect import NotDone, actor
from flows.ledger import Operation, steps
from flows.records import Plan
from flows.rollback.settings import Running, Traffic
from flows.rollback.tasks import await_balancer, await_healthy, endpoints_answer, keep_telling


class RolledBack(NotDone):
    """The release was taken back: by evidence, or by a policy because it proved nothing."""

    def __init__(self, why: str, *, by_evidence: bool) -> None:
        super().__init__(why)
        self.by_evidence = by_evidence


class MigrationPlan(Plan):
    """The migrations of a commit, brought to a database."""

    stage: str
    database: str
    commit: str


@steps("migrate", holds=["{stage}/database/{database}"], forward=True)
def migrate(op: Operation, plan: MigrationPlan) -> None:
    """Expand only: the release that serves works with the schema afterwards, or its gate would have refused."""
    op.ensure(f"migrate {plan.database}", Migrated(plan.commit), True)


@steps("deploy", holds=["{stage}/release"], urgent=True)
def roll_out(op: Operation, plan: DeployPlan) -> None:
    """One release, from migrations to its verdict."""
    world, release = op.world, plan.release(op.key, actor())
    world.ledger.releases.remember(release, op)
    shift, is_live = f"shift to {plan.slot}", op.begun(f"shift to {plan.slot}")
    if not op.committed:
        world.ledger.releases.add_gates(release.key, plan.gates)
        keep_telling(world, release)
        tasks.tell(world, release.name, "baking" if is_live else "starting", plan.sentence)
    if plan.pending:
        op.child("migrate", migrate, MigrationPlan(stage=plan.stage, database=plan.database, commit=plan.commit))
        release = tasks.remember_schema(world, release, op)
    if plan.left_over:
        op.ensure(f"free {plan.slot}", Running(plan.slot), None)
    op.ensure(f"start {plan.slot}", Running(plan.slot), plan.commit)
    if not (op.committed or is_live):
        _checked_before_traffic(op, plan)
    op.ensure(shift, Traffic(), plan.shares)
    if op.committed:
        return
    go_live(world, release, op)
    if not is_live:
        tasks.tell(world, release.name, "baking", plan.sentence)
    seen = watch(world, release, op.still, partial(tasks.tell_while_baking, world, release.name))
    if seen.action != "rollback":
        op.commit(sentence(seen))
    elif world.stage.release.version:
        raise RolledBack(sentence(seen), by_evidence=seen.state != "inconclusive")
    else:
        op.commit(f"HELD, the served version is unknown, so nothing is taken back: {sentence(seen, stays=True)}")


def _checked_before_traffic(op: Operation, plan: DeployPlan) -> None:
    await_healthy(op.world, plan.slot, plan.commit, op.still)
    if wrong := endpoints_answer(op.world, plan.slot):
        raise NotDone(f"{plan.name} gets no traffic: {'; '.join(wrong)}")
    tasks.smoke(op.world, plan)
    await_balancer(op.world, plan.slot, op.still)
