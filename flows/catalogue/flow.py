"""catalogue: which backups there are, and what each is worth."""

from flows import people
from flows.catalogue import tasks
from flows.catalogue.pages import catalogue_rows
from flows.effect import procedure, run_name
from flows.words import count
from flows.world import World


@procedure(name="catalogue", flow_run_name=run_name("catalogue of {database}"))
def catalogue(stage: str, rebuild: bool = False) -> str:
    """Shows every backup and what it is worth, failed ones too; on request makes the ledger equal to the bucket.

    Args:
        stage: which stage's backups are shown
        rebuild: also record in the ledger what the bucket holds (after the ledger was lost)
    """
    world = World.of(stage)
    bucket = tasks.read_bucket(world.reading, world.reading_keys, world.stage)
    rows = catalogue_rows(tasks.graded_with_memory(world, bucket))
    people.table("catalogue", rows, f"{count(len(bucket.found), 'backup')} in the bucket")
    people.report("catalogue-strays", tasks.strays_page(world, bucket), "what else is there")
    said = f"{count(len(bucket.backups), 'backup')}, {len(bucket.unreadable)} not believable"
    return f"{said}; {tasks.rebuild_ledger(world, bucket)}" if rebuild else said
