"""The journalled part of a deploy: migrated, started, checked before traffic, shifted, baked; undone when it is bad.

Before the commit the undo *is* the rollback: the traffic goes back in one command, the new release is drained and
stopped. After it the release stays; the one before it is kept in its slot, drained and running, as the way back.
"""

from typing import TYPE_CHECKING

from flows.bake.rule import Judgement
from flows.bake.sentence import sentence
from flows.bake.tasks import go_live, watch
from flows.deploy import tasks
from flows.deploy.plan import DeployPlan
from flows.deploy.settings import Migrated
from flows.effect import NotDone, actor
from flows.ledger import Operation, steps
from flows.records import Plan
from flows.rollback.settings import Running, Traffic
from flows.rollback.tasks import await_balancer, await_healthy, endpoints_answer

if TYPE_CHECKING:
    from flows.world import World


class RolledBack(NotDone):
    """Evidence took the release back."""


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
    if plan.pending:
        op.child("migrate", migrate, MigrationPlan(stage=plan.stage, database=plan.database, commit=plan.commit))
        release = tasks.remember_schema(world, release, op)
    if plan.left_over:
        op.ensure(f"free {plan.slot}", Running(plan.slot), None)
    op.ensure(f"start {plan.slot}", Running(plan.slot), plan.commit)
    if not op.committed:
        _checked_before_traffic(op, plan)
    op.ensure(f"shift to {plan.slot}", Traffic(), plan.shares)
    if op.committed:
        return
    go_live(world, release, op)
    seen = watch(world, release, op.still)
    if _is_taken_back(world, seen):
        raise RolledBack(sentence(seen))
    op.commit(sentence(seen) if seen.action != "rollback" else f"HELD, the served version is unknown: {sentence(seen)}")


def _checked_before_traffic(op: Operation, plan: DeployPlan) -> None:
    await_healthy(op.world, plan.slot, plan.commit, op.still)
    if wrong := endpoints_answer(op.world, plan.slot):
        raise NotDone(f"{plan.name} gets no traffic: {'; '.join(wrong)}")
    tasks.smoke(op.world, plan)
    await_balancer(op.world, plan.slot, op.still)


def _is_taken_back(world: "World", seen: Judgement) -> bool:
    """Not where nobody says which version serves: then no rollback is automatic."""
    return seen.action == "rollback" and bool(world.stage.release.version)
