"""catalogue, verify, prune: which backups there are, whether they are still what was stored, which of them go."""

from flows import people
from flows.catalogue import tasks
from flows.catalogue.pages import catalogue_rows, prune_rows
from flows.effect import procedure, run_name
from flows.words import count
from flows.world import World


@procedure(name="catalogue", flow_run_name=run_name("catalogue of {database}"))
def catalogue(stage: str, rebuild: bool = False) -> str:
    """Shows every backup in the bucket and what it is worth; on request makes the ledger equal to the bucket.

    Args:
        stage: which stage's backups are shown
        rebuild: also record in the ledger what the bucket holds (after the ledger was lost)
    """
    world = World.of(stage)
    bucket = tasks.read_bucket(world.reading, world.keys, world.stage)
    grades = tasks.graded_with_memory(world, bucket)
    people.table(
        "catalogue", catalogue_rows(bucket.backups, grades), f"{count(len(bucket.found), 'backup')} in the bucket"
    )
    people.report("catalogue-strays", tasks.strays_page(world, bucket), "what else lies in the bucket")
    said = f"{count(len(bucket.backups), 'backup')}, {len(bucket.unreadable)} not believable"
    return f"{said}; {tasks.rebuild_ledger(world, bucket)}" if rebuild else said


@procedure(name="verify", flow_run_name=run_name("verify {which} of {database}"))
def verify(stage: str, which: str = tasks.BY_AGE) -> str:
    """Verifies backups in the store without restoring them: signature and sizes, then every byte, rows and hashes.

    Args:
        stage: which stage's backups are verified
        which: "by-age" for what the ladder says, or the id of one backup, which is read whole
    """
    world = World.of(stage)
    bucket = tasks.read_bucket(world.reading, world.keys, world.stage)
    due = tasks.due_or_named(world, bucket, which)
    climbed = [tasks.climb(world, bucket, each) for each in due]
    rows = [tasks.check_row(each.check) for each in climbed]
    people.table("verify", rows, f"{count(len(climbed), 'backup')} verified")
    return tasks.verified(climbed, bucket)


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
    people.table("prune-plan", prune_rows(look.plan), look.plan.verdict.reason)
    if dry_run or not look.has_work:
        return look.plan.verdict.reason
    settled = tasks.carry_out_prune(world, look, really=really)
    return f"{look.plan.verdict.reason}; {settled}"
