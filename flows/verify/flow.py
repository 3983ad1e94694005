"""verify: whether stored backups are still what was stored."""

from flows import people
from flows.catalogue.tasks import read_bucket
from flows.effect import procedure, run_name
from flows.verify import tasks
from flows.words import count
from flows.world import World


@procedure(name="verify", flow_run_name=run_name("verify {which} of {database}"))
def verify(stage: str, which: str = tasks.BY_AGE) -> str:
    """Verifies backups in the store without restoring them: signature and sizes, then every byte, rows and hashes.

    Args:
        stage: which stage's backups are verified
        which: "by-age" for what the ladder says, or the id of one backup, which is read whole
    """
    world = World.of(stage)
    bucket = read_bucket(world.reading, world.keys, world.stage)
    due = tasks.due_or_named(world, bucket, which)
    climbed = [tasks.climb(world, bucket, each) for each in due]
    rows = [tasks.check_row(each.check) for each in climbed]
    people.table("verify", rows, f"{count(len(climbed), 'backup')} verified")
    return tasks.verified(climbed, bucket)
