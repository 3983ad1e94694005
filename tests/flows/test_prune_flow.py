"""prune deletes what no rule keeps and nothing else: not the last proven, not a stranger's key, no young orphan."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.backup.flow import backup
from flows.catalogue.flow import catalogue
from flows.catalogue.layout import MANIFEST, home_of, signature_of
from flows.catalogue.tasks import look_at_objects
from flows.effect import NotDone, without_prefect
from flows.prune import tasks
from flows.prune.flow import prune
from flows.prune.steps import PrunePlan, being_committed, needed_again, remove
from flows.restore.flow import restore
from flows.world import World
from tests.parts.deaths import DIED, expire, fork, reconcile
from tests.parts.postgres import drop_database
from tests.parts.scene import Scene
from tests.parts.store import READER

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def source(stage: Scene) -> str:
    """One real backup of today, that the others are made from."""
    backup("test", "daily")
    return stage.bucket.backups[0].id


def ids(stage: Scene) -> set[str]:
    return {each.id for each in stage.bucket.found}


@pytest.fixture
def strangers(stage: Scene) -> Generator[dict[str, bytes]]:
    """Keys in the bucket that are not ours: the original's, a neighbour's, a person's notes."""
    whole, prefix = replace(stage.place, prefix="").open(), stage.place.prefix
    home = f"{prefix}/test/curator/{stage.database.database}"
    keys = (
        f"database/2026/{stage.database.database}.gz.enc",
        f"{home}/notes.txt",
        f"{home}/20200101T000000Z-hourly-aaaaaa/manifest.json",
        f"{home}/20200101T000000Z-daily-aaaaaa/../manifest",
        f"{prefix}/test/curator/{stage.database.database}2/20200101T000000Z-daily-aaaaaa/manifest.json",
    )
    put = {key: key.encode() for key in keys if ".." not in key}
    for key, data in put.items():
        whole.put(key, data)
    yield put
    for key, data in put.items():
        assert whole.get(key) == data
    whole.delete(list(put))


def test_only_what_no_rule_keeps_goes_and_strangers_stay(
    stage: Scene, source: str, strangers: dict[str, bytes]
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    last_proven = stage.again(source, now - 400 * DAY, verdict="proven")
    old = [stage.again(source, now - days * DAY, kind="on-demand") for days in (410, 395, 390)]
    young = [stage.again(source, now - timedelta(minutes=minutes), kind="on-demand") for minutes in (20, 10)]
    lone = stage.bucket.found[0].folder.replace(stage.bucket.found[0].id, old[0])
    stage.objects.put(f"{lone}README", b"a person's")
    catalogue("test", rebuild=True)
    everything = {source, last_proven, *old, *young}

    assert "drop 3 of 7 backups" in prune("test", dry_run=True)
    assert ids(stage) == everything
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEDGER_URL", "postgresql://nobody@127.0.0.1:9/none")
        with pytest.raises(NotDone, match="nothing answers there"):
            prune("test")
    assert ids(stage) == everything

    sentence = prune("test")

    assert "3 backups deleted" in sentence
    assert ids(stage) == everything - set(old)
    assert stage.objects.get(f"{lone}README") == b"a person's"
    assert [entry.key for entry in stage.objects.list(lone)] == [f"{lone}README"]
    assert {each.id for each in stage.world.ledger.backups()} == everything - set(old)
    assert "nothing to drop" in prune("test")
    assert len(strangers) == 4


def test_one_that_became_the_last_proven_since_the_plan_stays(stage: Scene, source: str) -> None:
    """The newer proven one is disproven between the plan and the turn of the prune."""
    now = datetime.now(UTC).replace(microsecond=0)
    older = stage.again(source, now - 500 * DAY, verdict="proven")
    planned = tasks.look_for_prune(stage.world, really=True)
    assert older in {each.id for each in planned.plan.drops}
    for each in stage.bucket.found:
        if each.manifest and each.proofs and each.id != older:
            stage.proof(each.manifest, each.folder, now, "disproven")

    with without_prefect(), pytest.raises(NotDone, match="the world changed"):
        tasks.carry_out_prune(stage.world, planned, really=True)

    assert older in ids(stage)


def test_orphans_are_swept_only_after_their_grace(stage: Scene) -> None:
    before = ids(stage)
    found = stage.bucket.found[-1]
    orphan = "20200101T000000Z-daily-aaaaaa"
    folder = found.folder.replace(found.id, orphan)
    stage.objects.put(f"{folder}schema.pgc.zst.age", b"left by a crash")
    stage.objects.put(folder + signature_of(MANIFEST), b"and never committed")

    prune("test")
    assert len(list(stage.objects.list(folder))) == 2  # young: somebody may be writing it

    plan = PrunePlan(stage="test", database=stage.database.database, victims=(), orphans=(orphan,), uploads=())
    stage.world.carry_out(remove, plan, key=f"sweep {orphan}")
    assert not list(stage.objects.list(folder))
    assert ids(stage) == before


def test_a_backup_whose_commit_is_open_is_no_orphan(stage: Scene) -> None:
    """Its run died at the door: its objects are all there, only the manifest is not."""
    before = ids(stage)
    assert fork(lambda: backup("test", "daily"), "commit *:intent").ended() == DIED
    (dead,) = being_committed(stage.world.ledger.open())
    folder = stage.bucket.found[0].folder.replace(stage.bucket.found[0].id, dead)

    plan = PrunePlan(stage="test", database=stage.database.database, victims=(), orphans=(dead,), uploads=())
    stage.world.carry_out(remove, plan, key=f"sweep {dead}")
    assert list(stage.objects.list(folder))

    expire(stage.ledger)
    reconcile(stage.world.ledger)
    assert ids(stage) == before | {dead}
    stage.world.carry_out(remove, plan, key=f"sweep {dead} again")
    assert ids(stage) == before | {dead}
    assert not stage.half(dead)


@pytest.fixture
def victim(stage: Scene, source: str) -> Generator[str]:
    """A backup that no rule keeps, with a newer proven one; gone afterwards, so that each test has its own."""
    now = datetime.now(UTC).replace(microsecond=0)
    stage.again(source, now - 300 * DAY, verdict="proven")
    made = stage.again(source, now - 600 * DAY, kind="on-demand")
    yield made
    stage.objects.delete([entry.key for entry in stage.objects.list(folder_of(stage, made))])


def folder_of(stage: Scene, backup_id: str) -> str:
    return home_of(stage.world.stage).of(backup_id)


def ended_prunes(stage: Scene) -> list[str]:
    return [f"{each.state}: {each.reason}" for each in stage.world.ledger.history(500) if each.kind == "prune"]


@contextmanager
def being_read(stage: Scene, backup_id: str) -> Generator[None]:
    """A restore of it is open: its process stands still before it makes its database."""
    name = f"{stage.database.database}_reads"
    reading = fork(lambda: restore("test", which=backup_id, into=name), "create *:intent", "stop")
    assert reading.stopped()
    try:
        yield
    finally:
        assert reading.wake() == 0
        drop_database(stage.database.at(name))


def test_a_victim_that_an_open_restore_reads_stays_and_the_plan_says_why(stage: Scene, victim: str) -> None:
    with being_read(stage, victim):
        (row,) = [row for row in tasks.look_for_prune(stage.world, really=True).plan.rows if row.backup.id == victim]
        assert row.keep
        assert "read by a restore that is open or may still be swapped in" in row.reasons
        prune("test", really=True)
        assert victim in ids(stage)
        assert not stage.half(victim)
    prune("test", really=True)
    assert victim not in ids(stage)


def test_a_restore_that_began_after_the_plan_spares_its_backup(stage: Scene, victim: str) -> None:
    """The second look sees it; and where nobody looks again (reconcile goes on with a dead prune), the step does."""
    planned = tasks.look_for_prune(stage.world, really=True)
    assert victim in {each.id for each in planned.plan.drops}
    with being_read(stage, victim):
        with pytest.raises(NotDone, match="the world changed since the plan: victims was"):
            tasks.carry_out_prune(stage.world, planned, really=True)
        plan = PrunePlan(stage="test", database=stage.database.database, victims=(victim,), orphans=(), uploads=())
        stage.world.carry_out(remove, plan, key=f"no second look at {victim}")
        assert victim in ids(stage)
        assert not stage.half(victim)


def restored_hours_ago(stage: Scene, hours: int) -> None:
    """Every restore that is over ended so long ago."""
    with stage.ledger.connect() as connection:
        connection.execute("alter table ledger.operation disable trigger legal")
        connection.execute(
            "update ledger.operation set ended_at = now() - %s * interval '1 h' where kind = 'restore'", [hours]
        )
        connection.execute("alter table ledger.operation enable trigger legal")


def test_a_backup_whose_swap_may_still_be_approved_stays_for_that_day(stage: Scene, victim: str) -> None:
    """The run that was approved reads it once more: the swap would fail although its database is there."""
    live = stage.database.database
    with pytest.raises(NotDone, match="the swap was not approved"):
        restore("test", which=victim, swap=live)
    prune("test", really=True)
    assert needed_again(stage.world, victim)
    restored_hours_ago(stage, 24)
    prune("test", really=True)
    assert victim in ids(stage)
    assert not stage.half(victim)
    restored_hours_ago(stage, 26)
    prune("test", really=True)
    assert victim not in ids(stage)


def test_a_backup_that_was_swapped_in_goes(stage: Scene, victim: str) -> None:
    with without_prefect(yes="anna"):
        restore("test", which=victim, swap=stage.database.database)
    assert not needed_again(stage.world, victim)
    prune("test", really=True)
    assert victim not in ids(stage)


def test_a_pruner_that_may_not_delete_begins_nothing(stage: Scene, victim: str) -> None:
    before = ended_prunes(stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNING_AWS_ACCESS_KEY_ID", READER.access_key)
        patch.setenv("PRUNING_AWS_SECRET_ACCESS_KEY", READER.secret_key)
        assert victim in {each.id for each in tasks.look_for_prune(World.of("test"), really=True).plan.drops}
        with pytest.raises(NotDone, match="grant them s3:DeleteObject here"):
            prune("test", really=True)
    assert ended_prunes(stage) == before
    assert stage.world.ledger.open() == []
    assert not stage.half(victim)
    assert victim in ids(stage)


def test_an_old_folder_is_swept_but_not_one_whose_commit_is_open(stage: Scene, tmp_path: Path) -> None:
    """In a directory, as only there a test can make objects old."""
    store = f'bucket = "backups"\nprefix = "{stage.place.prefix}"\nregion = "us-east-1"'
    stage.toml(store, f'kind = "directory"\nfolder = "{tmp_path}"')
    try:
        assert fork(lambda: backup("test", "daily"), "commit *:intent").ended() == DIED
        (dead,) = being_committed(stage.world.ledger.open())
        orphan = "20200101T000000Z-daily-aaaaaa"
        objects, long_ago = stage.world.store.objects(), time.time() - 3 * DAY.total_seconds()
        objects.put(f"{folder_of(stage, orphan)}schema.pgc.zst.age", b"left by a crash")
        for file in (each for each in tmp_path.rglob("*") if each.is_file()):
            os.utime(file, (long_ago, long_ago))

        look = tasks.look_for_prune(stage.world, really=True)
        assert set(look.bucket.shelf.orphans) == {orphan}
        assert set(look.bucket.shelf.growing) == {dead}
        assert "1 orphan swept" in prune("test", really=True)
        assert not list(objects.list(folder_of(stage, orphan)))

        expire(stage.ledger)
        reconcile(stage.world.ledger)
        (found,) = stage.bucket.found
        assert look_at_objects(stage.world.store, found) == len(found.believed.objects)
        assert found.id == dead
    finally:
        stage.toml()
