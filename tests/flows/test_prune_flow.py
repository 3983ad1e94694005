"""prune deletes what no rule keeps and nothing else: not the last proven, not a stranger's key, no young orphan."""

from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flows.backup.flow import backup
from flows.catalogue.flow import catalogue
from flows.catalogue.layout import MANIFEST, signature_of
from flows.effect import NotDone, without_prefect
from flows.prune import tasks
from flows.prune.flow import prune
from flows.prune.steps import PrunePlan, being_committed, remove
from tests.parts.deaths import DIED, expire, fork, reconcile
from tests.parts.scene import Scene

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
