"""catalogue and verify: the bucket is the truth, the ledger is made from it again; what is doubtful is said."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flows.backup.flow import backup
from flows.catalogue.contents import Totals
from flows.catalogue.flow import catalogue
from flows.catalogue.layout import MANIFEST
from flows.effect import NotDone
from flows.prune.flow import prune
from flows.records import Backup
from flows.restore.flow import restore
from flows.status.flow import status
from flows.verify.flow import verify
from tests.parts.deaths import fork
from tests.parts.environment import url_of
from tests.parts.postgres import drop_database
from tests.parts.scene import Scene

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def taken(stage: Scene) -> str:
    backup("test", "daily")
    return stage.bucket.backups[0].id


def as_the_bucket_knows(backups: list[Backup]) -> list[Backup]:
    """Without what only the run that took them knew."""
    return [each.model_copy(update={"seconds": {}, "proof_asked_at": None}) for each in backups]


def test_a_lost_ledger_is_made_again_from_the_bucket(stage: Scene, taken: str) -> None:
    proven = stage.again(taken, NOW - timedelta(days=1), verdict="proven")
    gone = stage.again(taken, NOW - timedelta(days=2))
    assert "3 records written to the ledger" in catalogue("test", rebuild=True)
    before = stage.world.ledger.backups(), stage.world.ledger.proofs()
    with stage.ledger.connect() as connection:
        connection.execute("drop schema ledger cascade")
    assert catalogue("test") == "3 backups, 0 not believable"
    stage.world.ledger.migrate()

    assert catalogue("test", rebuild=True) == "3 backups, 0 not believable; 4 records written to the ledger"

    assert stage.world.ledger.backups() == as_the_bucket_knows(before[0])
    assert stage.world.ledger.proofs() == before[1]
    folder = next(each.folder for each in stage.bucket.found if each.id == gone)
    stage.objects.delete([entry.key for entry in stage.objects.list(folder)])
    assert "1 backup forgotten that are not in the bucket" in catalogue("test", rebuild=True)
    assert {each.id for each in stage.world.ledger.backups()} == {taken, proven}
    assert "0 records written" in catalogue("test", rebuild=True)


def test_what_cannot_be_believed_is_shown_with_its_reason(
    stage: Scene, taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    folder = next(each.folder for each in stage.bucket.found if each.id == taken)
    good = stage.objects.get(folder + MANIFEST)
    stage.objects.put(folder + MANIFEST, good[:-1])
    stage.objects.put(folder + "strange.txt", b"?")
    try:
        assert "1 not believable" in catalogue("test")
    finally:
        stage.objects.put(folder + MANIFEST, good)
        stage.objects.delete([folder + "strange.txt"])
    assert f"- **not believable**: {taken}: " in caplog.text


def test_databases_that_no_restore_finished_are_named_unless_one_is_at_work(
    stage: Scene, taken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a death with --alone leaves: nobody cleans up after it."""
    caplog.set_level("INFO", logger="flows")
    live = stage.database.database
    dead, unmarked, whole, strange = (f"{live}_{end}" for end in ("x", "restore_k3v7q2", "y", "restore_me"))
    at_work = f"{live}_restore_abcdef"
    with stage.database.at("postgres").connect() as connection:
        for name in (dead, unmarked, whole, strange):
            connection.execute(f"create database {name}".encode())
        connection.execute(f"comment on database {dead} is 'shipkeeper: incomplete, rows'".encode())
        connection.execute(f"comment on database {whole} is 'shipkeeper: restored x, verified'".encode())
    reading = fork(lambda: restore("test", which=taken, into=at_work), "create *:done", "stop")
    assert reading.stopped()
    try:
        catalogue("test")
    finally:
        assert reading.wake() == 0
        for name in (dead, unmarked, whole, strange, at_work):
            drop_database(stage.database.at(name))
    assert re.findall(r"half restored\*\*: database (\w+)", caplog.text) == [unmarked, dead]
    monkeypatch.setenv("DATABASE_URL", url_of(replace(stage.database, port=9)))
    catalogue("test")
    assert "- which databases are half restored can't be asked: " in caplog.text


def test_verify_climbs_what_is_due_and_blames_no_backup_for_its_host(
    stage: Scene, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RESTORE_IDENTITY_FILE", "/nowhere/identity")
        with pytest.raises(NotDone, match="/nowhere/identity is not on this host"):
            verify("test")
    assert {(check.rung, check.ok) for check in stage.world.ledger.checks()} == {(0, True)}  # as high as it can
    assert verify("test") == "2 backups verified, all are what was stored"
    assert {check.rung for check in stage.world.ledger.checks(taken)} == {0, 2}
    assert verify("test") == "0 backups verified, all are what was stored"
    with pytest.raises(NotDone, match="no backup 20200101T000000Z-daily-aaaaaa in the bucket"):
        verify("test", "20200101T000000Z-daily-aaaaaa")


def test_a_damaged_backup_fails_verify_and_status_and_stops_the_prune_until_it_is_whole(
    stage: Scene, taken: str
) -> None:
    verify("test", taken)
    stage.world.ledger.tick("reconcile")
    assert "is not what was stored" not in prune("test", dry_run=True)
    found = stage.one(taken)
    assert found
    key = next(key for key in found.keys if "/data/" in key)
    good = stage.objects.get(key)
    stage.objects.put(key, good[:-1] + bytes([good[-1] ^ 1]))
    wrong = f"backup {taken} is not what was stored: "
    try:
        with pytest.raises(NotDone, match="1 backup not what was stored"):
            verify("test", taken)
        assert prune("test", dry_run=True).startswith(f"nothing is pruned: {wrong}")
        with pytest.raises(NotDone, match=wrong):
            status("test")
    finally:
        stage.objects.put(key, good)
    verify("test", taken)
    stage.proof(found.believed, found.folder, datetime.now(UTC), "proven")  # or status fails for want of a young one
    catalogue("test", rebuild=True)
    stage.world.ledger.tick("reconcile")
    assert wrong not in prune("test", dry_run=True)
    assert wrong not in status("test")


def test_one_backup_that_this_host_cannot_open_does_not_keep_verify_from_the_others(stage: Scene, taken: str) -> None:
    strange = stage.again(taken, NOW - timedelta(days=5))
    fresh = stage.again(taken, NOW - timedelta(days=6))
    found = stage.one(strange)
    assert found
    assert found.manifest
    escrow_alone = found.manifest.model_copy(update={"recipients": (stage.keys.escrow_recipient,)})
    stage.sign_anew(escrow_alone, found.folder)
    try:
        with pytest.raises(NotDone, match=f"^1 backup not read: {strange}: no identity on this host opens"):
            verify("test")
    finally:
        stage.objects.delete([entry.key for entry in stage.objects.list(found.folder)])
    checks = stage.world.ledger.checks
    assert [(check.rung, check.ok) for check in checks(strange)] == [(0, True)]
    assert [(check.rung, check.ok) for check in checks(fresh)] == [(2, True)]


STRANGE = (
    'create schema "odd one"',
    'create table "odd one"."사용자 and\nso on" (id int)',
    "create table public.parted (id int) partition by range (id)",
    "create table public.part partition of public.parted for values from (0) to (9)",
)


def test_an_archive_that_lists_too_few_tables_is_found_by_verify(stage: Scene, taken: str) -> None:
    """A good signature over it: as if the dump itself had left them out."""
    with stage.database.connect() as connection:
        for command in STRANGE:
            connection.execute(command.encode())
    try:
        fuller = stage.one(backup("test").partition(":")[0])
    finally:
        with stage.database.connect() as connection:
            connection.execute('drop schema "odd one" cascade; drop table public.parted')
    poorer = stage.one(taken)
    assert fuller
    assert poorer
    assert verify("test", fuller.id) == "1 backup verified, all are what was stored"

    there, here = ({each.role: each for each in found.believed.objects} for found in (fuller, poorer))
    key = there["schema"].key
    stage.objects.put(fuller.folder + key, stage.objects.get(poorer.folder + key))
    objects = tuple(here["schema"] if each.role == "schema" else each for each in fuller.believed.objects)
    totals = Totals.of(fuller.believed.tables, objects)
    stage.sign_anew(fuller.believed.model_copy(update={"objects": objects, "totals": totals}), fuller.folder)
    try:
        with pytest.raises(NotDone) as found:
            verify("test", fuller.id)
        assert f"{key} lacks 2 tables of the manifest: odd one.사용자 and so on, public.part" in str(found.value)
    finally:
        stage.objects.delete([entry.key for entry in stage.objects.list(fuller.folder)])
