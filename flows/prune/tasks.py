"""Looks at the whole bucket for what may go, and has it deleted through the ledger. Decides nothing itself."""

from dataclasses import dataclass
from datetime import UTC, datetime

from blocks.storage.objects import Unfinished
from flows import people
from flows.catalogue.layout import home_of
from flows.catalogue.tasks import Bucket, accusations, graded_with_memory, read_bucket
from flows.prune import retention
from flows.prune.settings import Papers
from flows.prune.steps import PrunePlan, being_committed, being_restored, remove
from flows.words import count, listed
from flows.world import World


@dataclass(frozen=True)
class PruneLook:
    """What a prune saw and decided."""

    plan: retention.PrunePlan
    bucket: Bucket
    uploads: tuple[Unfinished, ...]

    @property
    def orphans(self) -> tuple[str, ...]:
        """Folders that never got a manifest."""
        return tuple(self.bucket.shelf.orphans)

    @property
    def halves(self) -> tuple[tuple[str, str], ...]:
        """Uploads that nobody finished, by key and id."""
        return tuple((each.key, each.id) for each in self.uploads)

    @property
    def has_work(self) -> bool:
        """Whether there is anything to delete."""
        return bool(self.plan.drops or self.orphans or self.uploads)


def look_for_prune(world: World, *, really: bool) -> PruneLook:
    """Read the bucket whole and decide what stays."""
    stage, now = world.stage, datetime.now(UTC)
    open_ones = world.ledger.open()  # before the bucket: a commit that ends in between has its manifest there
    committing = being_committed(open_ones)
    bucket = read_bucket(world.pruning, world.keys, stage, committing)
    around = retention.Circumstances(
        wants_proofs=stage.backup.proves,
        unreadable=tuple(each.id for each in bucket.unreadable),
        wrong=accusations(world, {each.id for each in bucket.found}),
        restoring=being_restored(world, open_ones),
        really=really,
    )
    in_bucket = {each.id for each in bucket.backups}
    grades = [each for each in graded_with_memory(world, bucket) if each.id in in_bucket or each.grade == "failed"]
    plan = retention.prune_plan(grades, stage.retention, now, around)
    objects, home = world.pruning.objects(), home_of(stage)
    old = objects.now() - stage.retention.grace
    uploads = (each for each in objects.uploads(home.folder) if home.owner(each.key) not in committing)
    return PruneLook(plan, bucket, tuple(each for each in uploads if each.started < old))


def carry_out_prune(world: World, look: PruneLook, *, really: bool) -> str:
    """Delete through the ledger, after another look while the database's backups are held.

    Who may not delete is refused before anything: a prune that began could neither go on nor back.
    """
    people.say(world.pruning.check("pruner"))

    def plan_of(seen: PruneLook) -> PrunePlan:
        return PrunePlan(
            stage=world.stage.name,
            database=world.stage.database.name,
            victims=tuple(each.id for each in seen.plan.drops),
            orphans=seen.orphans,
            uploads=seen.halves,
        )

    settled = world.carry_out(
        remove,
        plan_of(look),
        key=f"prune {people.run_key()}",
        look=lambda: plan_of(look_for_prune(world, really=really)),
    )
    people.outcome(operation=settled.operation)
    kept = [each.id for each in look.plan.drops if Papers(each.id).read(world)]
    gone = count(len(look.plan.drops) - len(kept), "backup")
    stayed = f", {listed(kept)} stayed as it became needed" if kept else ""
    return f"{gone} deleted{stayed}, {count(len(look.orphans), 'orphan')} swept"
