"""reconcile: settles the operations of dead processes, and records what the bucket has and the ledger does not.

It marks the runs of dead processes Crashed. It ticks every 5 s and lives 65 minutes; one is started every 30 minutes,
and by each worker's start, so that a spare always waits beside the one at work.
"""

from flows.effect import procedure, run_name
from flows.reconcile import tasks
from flows.world import World


@procedure(name="reconcile", flow_run_name=run_name("reconcile {stage}"))
def reconcile(stage: str) -> str:
    """Takes over what dead processes left open, forward or back, for 65 minutes.

    Args:
        stage: which stage's operations are watched
    """
    world = World.of(stage)
    recorded = tasks.record_strays(world)
    settled = tasks.keep_watch(world)
    return f"{recorded}; {settled}"
