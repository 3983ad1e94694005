"""prove on real parts: what a proof leaves behind, two at once, and what a killed one left."""

import threading

import pytest
from psycopg import sql

from flows.backup.flow import backup
from flows.effect import NotDone
from flows.prove.flow import prove
from flows.prove.tasks import SCRATCH_PREFIX
from tests.parts.scene import Scene


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
    assert prove("test") == "nothing to prove: every backup in the bucket is judged"


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
