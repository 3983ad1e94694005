"""bake: watch a release, or say again what its stored looks say."""

from flows import people
from flows.bake import tasks
from flows.effect import procedure, run_name
from flows.world import World


@procedure(name="bake", flow_run_name=run_name("bake {release} on {stage}"))
def bake(stage: str, release: str = "") -> str:
    """Watches the release that serves, going on from its stored looks, or replays the verdict on an earlier one.

    Args:
        stage: which stage's release
        release: which one, as v7 or by the first letters of its commit; empty for the one that serves
    """
    world = World.of(stage)
    found = tasks.find(world, release)
    people.rename_run(f"bake {found.release.name} on {stage}")
    if found.serves:
        seen = tasks.watch(world, found.release, tasks.serves_still(world, found.release))
    else:
        seen = tasks.replay(world, found.release)
    return tasks.report(world, found, seen)
