"""prove on real parts: what a proof leaves behind, two at once, and what a killed one left."""

import threading
from datetime import UTC, datetime

import pytest
from psycopg import sql

from blocks.errors import Refused
from blocks.postgres.cluster import Cluster
from flows.backup.flow import backup
from flows.effect import NotDone, without_prefect
from flows.prove import tasks
from flows.prove.flow import prove
from flows.prove.tasks import SCRATCH_PREFIX
from flows.world import World
from tests.parts.environment import url_of
from tests.parts.scene import Scene
from tests.parts.store import WRITER


@pytest.fixture(scope="module")
def taken(stage: Scene) -> str:
    backup("test", "daily")
    return stage.bucket.backups[0].id


def test_two_proofs_at_once_are_both_good_and_a_killed_ones_scratch_is_swept(stage: Scene, taken: str) -> None:
    with stage.database.at("postgres").connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(f"{SCRATCH_PREFIX}dead")))
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(prove("test", taken))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [text.partition(";")[0] for text in said] == [
        f"{taken} is proven: 500 rows of 1 table restored and equal"
    ] * 2
    assert not [name for name in stage.databases() if name.startswith(SCRATCH_PREFIX)]
    assert {proof.verdict for proof in stage.bucket.proofs} == {"proven"}
    assert {proof.backup for proof in stage.world.ledger.proofs()} == {taken}
    assert prove("test") == "nothing to prove: every backup that is to be proven is judged"


def test_a_host_without_the_identity_says_so_and_signs_nothing(
    stage: Scene, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(stage.bucket.proofs)
    monkeypatch.setenv("RESTORE_IDENTITY_FILE", "/nowhere/identity")
    with pytest.raises(NotDone, match="/nowhere/identity is not on this host"):
        prove("test", taken)
    with pytest.raises(NotDone, match="no backup 20200101T000000Z-daily-aaaaaa in the bucket"):
        prove("test", "20200101T000000Z-daily-aaaaaa")
    assert len(stage.bucket.proofs) == before


def test_a_store_that_refuses_says_nothing_against_the_backup(stage: Scene, taken: str) -> None:
    found = stage.one(taken)
    assert found
    keys = {"READING_AWS_ACCESS_KEY_ID": WRITER.access_key, "READING_AWS_SECRET_ACCESS_KEY": WRITER.secret_key}
    world = World(stage.world.stage, {**stage.environ, **keys})
    with without_prefect(), pytest.raises(Refused, match="these credentials may not; grant them s3:GetObject"):
        tasks.prove_it(world, found)


def test_a_listed_object_that_is_gone_disproves(stage: Scene, taken: str) -> None:
    gone = stage.again(taken, datetime(2020, 1, 1, tzinfo=UTC))
    found = stage.one(gone)
    assert found
    stage.objects.delete([next(key for key in found.keys if "/data/" in key)])
    try:
        with pytest.raises(NotDone, match=f"{gone} is disproven: restore: .*the store has no such thing"):
            prove("test", gone)
    finally:
        stage.objects.delete([entry.key for entry in stage.objects.list(found.folder)])


def test_a_scratch_of_another_major_says_nothing_against_the_backup(
    stage: Scene, taken: str, postgres15: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = stage.again(taken, datetime(2023, 1, 1, tzinfo=UTC))
    found = stage.one(there)
    assert found
    monkeypatch.setenv("SCRATCH_URL", url_of(postgres15.address()))
    try:
        assert prove("test", there) == (
            f"{there} is unproven: the scratch lacks the right major: "
            "the backup is of Postgres 17, the scratch server is 15"
        )
    finally:
        stage.objects.delete([entry.key for entry in stage.objects.list(found.folder)])


def test_a_proof_signed_by_who_takes_backups_proves_nothing(stage: Scene, taken: str) -> None:
    at = datetime(2022, 1, 1, tzinfo=UTC)
    found = stage.one(stage.again(taken, at))
    assert found
    stage.proof(found.believed, found.folder, at, "proven", stage.world.keys)
    try:
        assert stage.one(found.id) is not None
        assert not [proof for proof in stage.bucket.proofs if proof.backup == found.id]
        stage.proof(found.believed, found.folder, at, "proven")
        assert [proof.verdict for proof in stage.bucket.proofs if proof.backup == found.id] == ["proven"]
    finally:
        stage.objects.delete([entry.key for entry in stage.objects.list(found.folder)])


def test_a_prover_whose_key_nobody_trusts_says_so_before_it_restores(
    stage: Scene, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_SIGNING_KEY", stage.keys.backup_signing_key)
    before = len(stage.bucket.proofs)
    with pytest.raises(NotDone, match="is trusted for backups, not for proofs"):
        prove("test", taken)
    assert len(stage.bucket.proofs) == before


def test_a_proof_that_died_is_taken_up_before_a_newer_backup_that_nobody_asked_about(stage: Scene, taken: str) -> None:
    older, newer = (stage.again(taken, datetime(2021, 1, day, tzinfo=UTC)) for day in (1, 2))
    died = next(each for each in stage.bucket.backups if each.id == older)
    stage.world.ledger.remember(died.model_copy(update={"proof_asked_at": datetime(2021, 1, 1, tzinfo=UTC)}))
    with without_prefect():
        turns = [tasks.choose(stage.world, tasks.NEWEST_UNPROVEN)]
        assert "is proven" in prove("test")
        turns += [tasks.choose(stage.world, tasks.NEWEST_UNPROVEN)]
    assert [each and each.id for each in turns] == [older, newer]
