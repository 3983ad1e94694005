"""deploy: bring a commit live, proven by evidence or taken back; history: every release and what became of it."""

from functools import partial

from flows import people
from flows.deploy import tasks, telling
from flows.deploy.steps import RolledBack, roll_out
from flows.effect import NotDone, procedure, run_name
from flows.world import World


@procedure(name="deploy", flow_run_name=run_name("deploy {commit} to {stage}"))
def deploy(stage: str, commit: str = "", backup: str = "before-deploy", dry_run: bool = False) -> str:
    """Deploys a commit: gates, backup, migrations, checks before traffic, then a bake that keeps it or takes it back.

    Args:
        stage: which stage is deployed to
        commit: which commit, tag or branch; empty for the newest commit of the stage's branch
        backup: "before-deploy" to take one first, or the id of a proven one that is younger than the stage's RPO
        dry_run: show the plan, with the gates that only read, and stop
    """
    world = World.of(stage)
    seen = tasks.look(world, commit)
    with telling.telling(world, seen, dry_run=dry_run):
        plan = tasks.make_plan(world, seen, backup, reading_only=dry_run)
        people.rename_run(plan.sentence)
        people.report("deploy-plan", plan.markdown, plan.sentence)
        if dry_run:
            return plan.sentence
        tasks.prepare(world, seen, plan)
        try:
            settled = world.carry_out(roll_out, plan, key=plan.key, look=partial(tasks.look_again, world, plan))
        except RolledBack as bad:
            raise NotDone(telling.taken_back(world, plan, str(bad))) from None
        if plan.is_one_way:
            tasks.watch_on(world, plan)
        return telling.report(world, plan, settled)


@procedure(name="history", flow_run_name=run_name("releases of {stage}"))
def history(stage: str) -> str:
    """Shows every release of the stage: who brought it, when it served, and what became of it.

    Args:
        stage: which stage
    """
    world = World.of(stage)
    return telling.history(world)
