"""backup: take one, encrypted and signed, and ask for its proof by policy."""

from flows import people
from flows.backup import tasks
from flows.effect import procedure, run_name
from flows.records import Kind
from flows.world import World


@procedure(name="backup", flow_run_name=run_name("{kind} of {database}"))
def backup(stage: str, kind: Kind = "on-demand", dry_run: bool = False) -> str:
    """Takes a backup of the stage's database and asks for its proof by policy.

    Args:
        stage: which stage is backed up; it must be the worker's own
        kind: what the backup is for; it decides how long it stays and whether it is proven
        dry_run: show the plan and stop
    """
    world = World.of(stage)
    if dry_run:
        return tasks.show_plan(world, kind).sentence
    with tasks.failure_recorded(world, kind):
        plan = tasks.show_plan(world, kind)
        tasks.insist(plan, world.keys)
        taken = tasks.take(world.database, world.store, world.keys, world.stage, plan)
        kept = tasks.keep(world, taken)
    people.outcome(operation=kept.operation)
    return tasks.report(world, plan, taken, kept, tasks.ask_for_proof(world, kept))
