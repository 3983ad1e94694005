"""rollback: give the traffic back to a release that is known to be good, and see whether it helped."""

from flows import people
from flows.effect import procedure, run_name
from flows.rollback import asking, tasks, telling
from flows.rollback.steps import go_back
from flows.world import World


@procedure(name="rollback", flow_run_name=run_name("rollback {stage} to {to}"))
def rollback(stage: str, to: str = "", reason: str = "", dry_run: bool = False) -> str:
    """Goes back to the last stable release, or the one that a person names, without a failed request; never over a
    migration that it can't work with.

    Args:
        stage: which stage is rolled back
        to: the release, as v7 or by the first letters of its commit; empty for the last stable one
        reason: why, for the record and for whoever reads it at night
        dry_run: show the plan, with every refused candidate and why, and stop
    """
    world = World.of(stage)
    if undone := tasks.stop_running_deploy(world, to, reason, dry_run=dry_run):
        return undone
    plan = tasks.make_plan(world, to, reason)
    people.rename_run(plan.sentence)
    people.report("rollback-plan", plan.markdown, plan.sentence)
    if dry_run:
        return plan.sentence
    with telling.telling(world, plan):
        settled = world.carry_out(go_back, plan, key=plan.key, look=lambda: tasks.make_plan(world, to, reason))
        checks = asking.verify(world, asking.release_of(world, plan.key))
        helped = tasks.did_it_help(world, plan)
        return telling.report(world, plan, settled, checks, helped)
