"""prune: which backups go, and that they do."""

from flows import people
from flows.effect import procedure, run_name
from flows.prune import tasks
from flows.prune.pages import prune_rows
from flows.world import World


@procedure(name="prune", flow_run_name=run_name("prune {database}"))
def prune(stage: str, dry_run: bool = False, really: bool = False) -> str:
    """Deletes the backups that no retention rule keeps, manifest first, and sweeps what crashed uploads left.

    Args:
        stage: which stage's backups are pruned
        dry_run: list every backup with the rule that keeps or drops it, and stop
        really: go on although more would go at once than max_drop_percent allows
    """
    world = World.of(stage)
    look = tasks.look_for_prune(world, really=really)
    people.table("prune-plan", prune_rows(look.plan, look.orphans, look.halves), look.plan.verdict.reason)
    if dry_run or not look.has_work:
        return look.plan.verdict.reason
    settled = tasks.carry_out_prune(world, look, really=really)
    return f"{look.plan.verdict.reason}; {settled}"
