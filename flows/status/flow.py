"""status: one page that says whether the promise is kept; the run fails when it is not."""

from flows.effect import procedure, run_name
from flows.status import tasks
from flows.world import World


@procedure(name="status", flow_run_name=run_name("status of {stage}"))
def status(stage: str) -> str:
    """Shows open operations, the newest backup and proof against the RPO, and whether reconcile lives.

    Args:
        stage: which stage is looked at
    """
    world = World.of(stage)
    seen = tasks.look(world)
    return tasks.show(world, seen)
