"""The journalled part of a deploy: migrated, started, checked before traffic, shifted, baked; undone when it is bad.

Before the commit the undo *is* the rollback: the traffic goes back in one command, the new release is drained and
stopped. After it the release stays; the one before it is kept in its slot, drained and running, as the way back.
"""

from functools import partial

from flows import people
from flows.bake.sentence import sentence
from flows.bake.tasks import go_live, watch
from flows.deploy.asking import smoke
from flows.deploy.plan import DeployPlan
from flows.deploy.settings import Migrated
from flows.deploy.tasks import remember_schema
from flows.deploy.telling import STAYS, tell, tell_for_the_dead, tell_while_baking
from flows.effect import NotDone, actor
from flows.ledger import Operation, steps
from flows.records import Plan
from flows.records_release import Release
from flows.rollback.asking import await_balancer, await_healthy, endpoints_answer, released
from flows.rollback.settings import Kept, Running, Traffic
from flows.rollback.telling import keep_telling
from flows.world import World

KEPT_BUILDS = 5  # of the newest releases: going back to them needs no repository


class RolledBack(NotDone):
    """The release was taken back: by evidence, or by a policy because it proved nothing."""


class MigrationPlan(Plan):
    """The migrations of a commit, brought to a database."""

    stage: str
    database: str
    commit: str


@steps("migrate", holds=["{stage}/database/{database}"])
def migrate(op: Operation, plan: MigrationPlan) -> None:
    """Expand only: the release that serves works with the schema afterwards, or its gate would have refused.

    Of those that fail nothing is left open: the deploy ends, and the next one asks what is still pending.
    """
    op.ensure(f"migrate {plan.database}", Migrated(plan.commit), True)


@steps("deploy", holds=["{stage}/release"], urgent=True, told=tell_for_the_dead)
def roll_out(op: Operation, plan: DeployPlan) -> None:
    """One release, from migrations to its verdict."""
    world = op.world
    release = released(world, op.key) or plan.release(op.key, actor())
    world.ledger.releases.remember(release, op)
    shift, is_live = f"shift to {plan.slot}", op.begun(f"shift to {plan.slot}")
    if not op.committed:
        world.ledger.releases.add_gates(release.key, plan.gates)
        keep_telling(world, release)
        tell(world, release.name, "baking" if is_live else "starting", plan.sentence)
    if plan.pending:
        op.child("migrate", migrate, MigrationPlan(stage=plan.stage, database=plan.database, commit=plan.commit))
        release = remember_schema(world, release, op)
    if plan.left_over:
        op.ensure(f"free {plan.slot}", Running(plan.slot), None)
    op.ensure(f"start {plan.slot}", Running(plan.slot), plan.commit)
    if not (op.committed or is_live):
        _checked_before_traffic(op, plan)
    op.ensure(shift, Traffic(), plan.shares)
    if plan.way_back_lives:
        op.ensure(f"keep {plan.left_slot}", Kept(plan.left_slot, plan.previous), True)
    if not op.committed:
        _bake(op, plan, release, is_live=is_live)


def _bake(op: Operation, plan: DeployPlan, release: Release, *, is_live: bool) -> None:
    """Its verdict commits, or undoes; where nothing lives that the traffic could be given back to, it comes later."""
    world = op.world
    go_live(world, release, op)
    if not is_live:
        tell(world, release.name, "baking", plan.sentence)
    if plan.is_one_way:
        op.commit(STAYS)
        return
    seen = watch(world, release, op.still, partial(tell_while_baking, world, release.name))
    if seen.action != "rollback":
        op.commit(sentence(seen))
    elif world.stage.release.version:
        raise RolledBack(sentence(seen))
    else:
        op.commit(f"HELD, the served version is unknown, so nothing is taken back: {sentence(seen, stays=True)}")
    _prune_builds(world)


def _prune_builds(world: World) -> None:
    """What cannot be deleted is only said."""
    try:
        world.platform.prune_builds([told.release.commit for told in world.ledger.releases.all()[-KEPT_BUILDS:]])
    except OSError as kept:
        people.say(f"old checkouts stay: {kept}")


def _checked_before_traffic(op: Operation, plan: DeployPlan) -> None:
    await_healthy(op.world, plan.slot, plan.commit, op.still)
    if wrong := endpoints_answer(op.world, plan.slot):
        raise NotDone(f"{plan.name} gets no traffic: {'; '.join(wrong)}")
    smoke(op.world, plan)
    await_balancer(op.world, plan.slot, op.still)
