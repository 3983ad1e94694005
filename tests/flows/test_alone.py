"""Break glass without a ledger (--alone): the bucket, the identity and a server are all there is.

What is refused, undone or half is so without a ledger too. But nobody keeps a second operator out, or cleans up later.
"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from psycopg import sql
from pydantic import SecretStr

from blocks.keys import new_keys
from blocks.postgres import databases
from blocks.postgres.load import INCOMPLETE
from deployments.breakglass import ALONE, run_flow
from flows import people
from flows.backup.flow import backup
from flows.catalogue.flow import catalogue
from flows.catalogue.layout import MANIFEST, signature_of
from flows.effect import BreakGlass, NotDone, without_prefect
from flows.prove.flow import prove
from flows.restore.flow import restore
from flows.restore.plan import mark_of
from tests.parts.deaths import DIED, fork
from tests.parts.postgres import drop_database
from tests.parts.scene import Scene

LOST = (
    "LEDGER_URL",
    "BACKUP_RECIPIENTS",
    "PROOF_VERIFYING_KEYS",
    "BACKUP_SIGNING_KEY",
    "PROOF_SIGNING_KEY",
    "SCRATCH_URL",
)
ROWS = "data/00000.public.users.copy.zst.age"


@pytest.fixture(scope="module")
def proven(stage: Scene) -> str:
    """A backup that was proven while there was a ledger."""
    taken = backup("test", "daily").partition(":")[0]
    prove("test")
    return taken


@pytest.fixture
def bereft(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left: the bucket, the identity, the verifying keys of backups, the server."""
    for name in LOST:
        monkeypatch.delenv(name)


@pytest.fixture
def alone(bereft: None) -> Generator[None]:
    """Break glass with --alone, in that world."""
    del bereft
    with without_prefect(alone=True):
        yield


@contextmanager
def no_database_stays(stage: Scene) -> Generator[None]:
    before = stage.databases()
    yield
    assert stage.databases() == before


@contextmanager
def put(stage: Scene, proven: str, changed: dict[str, bytes]) -> Generator[None]:
    """Other bytes under some keys of the backup, for as long as this lasts."""
    folder = folder_of(stage, proven)
    good = {key: stage.objects.get(folder + key) for key in changed}
    for key, data in changed.items():
        stage.objects.put(folder + key, data)
    try:
        yield
    finally:
        for key, data in good.items():
            stage.objects.put(folder + key, data)


def folder_of(stage: Scene, proven: str) -> str:
    found = stage.one(proven)
    assert found
    return found.folder


def users(stage: Scene, database: str) -> int:
    with stage.database.at(database).connect() as connection:
        row = connection.execute("select count(*) from public.users").fetchone()
    return row[0] if row else 0


# ---- a restore


@pytest.mark.usefixtures("bereft")
@pytest.mark.parametrize("swap", [False, True])
def test_without_a_ledger_a_restore_is_refused_and_says_what_insists(stage: Scene, proven: str, swap: bool) -> None:
    with no_database_stays(stage), pytest.raises(NotDone) as refused:
        restore("test", which=proven, swap=stage.database.database if swap else "")
    assert str(refused.value) == (
        "the PostgresServer of test-ledger needs LEDGER_URL in the environment; a backup and a restore also run --alone"
    )


@pytest.mark.usefixtures("alone")
def test_alone_without_the_keys_of_proofs_a_backup_comes_back_by_its_name_and_none_counts_as_proven(
    stage: Scene, proven: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{stage.database.database}_named"
    assert "every table compared" in restore("test", which=proven, into=name)
    assert users(stage, name) == 500
    drop_database(stage.database.at(name))
    unheard = "PROOF_VERIFYING_KEYS is not set: no backup counts as proven, and none as disproven"
    assert unheard in caplog.text
    with no_database_stays(stage), pytest.raises(NotDone, match=f"no backup is proven: .*, or name one .*{proven}"):
        restore("test")
    assert catalogue("test").endswith(", 0 not believable")


@pytest.mark.usefixtures("alone")
def test_alone_without_the_keys_of_proofs_a_disproven_backup_is_taken_and_says_that_its_proof_is_not_known(
    stage: Scene, proven: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    bad = stage.again(proven, datetime(2020, 1, 1, tzinfo=UTC), verdict="disproven")
    assert bad in restore("test", which="2020-01-02T00:00Z", dry_run=True)
    unheard = "unproven: its proof can't be verified here, as PROOF_VERIFYING_KEYS is not set"
    assert f"{bad} ({unheard})" in caplog.text
    monkeypatch.setenv("PROOF_VERIFYING_KEYS", stage.keys.proof_verifying_key)
    with pytest.raises(NotDone, match="no backup before 2020-01-02T00:00Z"):
        restore("test", which="2020-01-02T00:00Z", dry_run=True)


@pytest.mark.usefixtures("bereft")
def test_alone_the_newest_proven_backup_comes_back_compared_and_marked(
    stage: Scene, proven: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_VERIFYING_KEYS", stage.keys.proof_verifying_key)
    name = f"{stage.database.database}_alone"
    logged = people.LOG.handlers, people.LOG.propagate
    try:
        code = run_flow("restore", "test", {"into": name}, BreakGlass(alone=True), as_json=True)
    finally:
        people.LOG.handlers, people.LOG.propagate = logged
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (code, said["done"], said["backups"]) == (0, True, [proven])
    assert (said["database"], said["operation"]) == (name, None)
    assert ALONE in printed.err
    assert "500 rows of 1 table loaded and compared" in printed.err
    assert databases.mark(stage.database, name) == mark_of(proven, None)
    assert users(stage, name) == 500
    drop_database(stage.database.at(name))


@pytest.mark.usefixtures("alone")
def test_alone_rows_that_are_not_the_manifests_leave_no_database(stage: Scene, proven: str) -> None:
    """Signed, but not what the objects hold: found by the comparison alone, when the database is filled."""
    found = stage.one(proven)
    assert found
    assert found.manifest
    other = tuple(
        each.model_copy(update={"xxh3_128": "0" * 32}) if each.role == "data" else each
        for each in found.manifest.objects
    )
    lie = found.manifest.model_copy(update={"objects": other}).text()
    signature = stage.world.keys.sign(lie)
    with (
        put(stage, proven, {MANIFEST: lie, signature_of(MANIFEST): signature}),
        no_database_stays(stage),
        pytest.raises(NotDone, match=r"public\.users"),
    ):
        restore("test", which=proven)


def truncated(data: bytes) -> bytes:
    return data[:-10]


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("tamper", [truncated, flipped])
def test_alone_an_altered_object_is_refused_before_any_database(
    stage: Scene, proven: str, tamper: Callable[[bytes], bytes]
) -> None:
    altered = tamper(stage.objects.get(folder_of(stage, proven) + ROWS))
    with put(stage, proven, {ROWS: altered}), no_database_stays(stage), pytest.raises(NotDone, match=ROWS):
        restore("test", which=proven)


@pytest.mark.usefixtures("alone")
def test_alone_a_manifest_that_a_stranger_signed_is_not_believed(stage: Scene, proven: str) -> None:
    text = stage.objects.get(folder_of(stage, proven) + MANIFEST)
    strange = stage.world.keys.model_copy(update={"signing_key": SecretStr(new_keys().backup_signing_key)})
    with (
        put(stage, proven, {signature_of(MANIFEST): strange.sign(text)}),
        no_database_stays(stage),
        pytest.raises(NotDone, match="not believable"),
    ):
        restore("test", which=proven)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("point", "marked"), [("create *:acted", False), ("commit", True)])
def test_alone_a_death_leaves_a_database_that_does_not_look_whole(
    stage: Scene, proven: str, point: str, marked: bool
) -> None:
    """Nobody cleans up: its mark says that it is half, or it has none; the runbook has it dropped by hand."""
    name = f"{stage.database.database}_died"
    assert fork(lambda: restore("test", which=proven, into=name), point).ended() == DIED
    assert (databases.mark(stage.database, name) or "").startswith(INCOMPLETE) is marked
    assert databases.mark(stage.database, name) != mark_of(proven, None)
    with pytest.raises(NotDone, match=f"{name} exists already"):
        restore("test", which=proven, into=name)
    drop_database(stage.database.at(name))
    assert "every table compared" in restore("test", which=proven, into=name)
    drop_database(stage.database.at(name))


def sentence_of(act: Callable[[], object], file: Path) -> None:
    """What a run ended with, written down for another process."""
    try:
        act()
    except NotDone as error:
        file.write_text(str(error))


@pytest.mark.usefixtures("alone")
def test_alone_what_could_not_be_undone_is_told_with_what_came_before_it(
    stage: Scene, proven: str, tmp_path: Path
) -> None:
    """Nobody comes back for it: who restores must hear why it failed, and what stands there now."""
    name, told = f"{stage.database.database}_theirs", tmp_path / "told"
    there = stage.database.at(name)
    attempt = partial(restore, "test", which=proven, into=name)
    other = fork(lambda: sentence_of(attempt, told), "create *:done", "stop")
    assert other.stopped()
    drop_database(there)
    with stage.database.connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with there.connect() as connection:
        connection.execute("create table public.theirs (id int)")
    assert other.wake() == 0
    why, undoing = told.read_text().split("; undoing ")
    assert "is not empty" in why
    assert undoing == (
        f"create {name} failed too: {name} is not what this restore made: it stays; look into it, and rename it;"
        " without a ledger nobody tries again"
    )
    with there.connect() as connection:
        assert connection.execute("select from public.theirs").fetchall() == []
    drop_database(there)


# ---- a swap


@pytest.mark.usefixtures("bereft")
def test_alone_a_swap_is_made_when_somebody_approves_it(stage: Scene, proven: str) -> None:
    live = stage.database.database
    with stage.database.connect() as connection:
        connection.execute("delete from public.users where id > 10")
    with without_prefect(alone=True, yes="anna"):
        sentence = restore("test", which=proven, swap=live)
    old = sentence.rpartition(" ")[2]
    assert sentence == f"{proven} is live as {live}; the old one is kept, closed, as {old}"
    assert users(stage, live) == 500
    assert databases.is_open(stage.database, old) is False
    databases.set_open(stage.database, old, allow=True)
    assert users(stage, old) == 10
    drop_database(stage.database.at(old))


@pytest.mark.usefixtures("alone")
def test_alone_a_swap_that_nobody_approves_leaves_the_live_one_and_the_restored_one_beside_it(
    stage: Scene, proven: str
) -> None:
    before = stage.databases()
    with pytest.raises(NotDone, match="was not approved: look at the plan, then say who approves it with --yes NAME"):
        restore("test", which=proven, swap=stage.database.database)
    (made,) = stage.databases() - before
    assert databases.mark(stage.database, made) == mark_of(proven, None)
    drop_database(stage.database.at(made))


# ---- a backup


def test_alone_a_backup_is_whole_and_says_what_it_could_not_do(
    stage: Scene, alone: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del alone
    caplog.set_level("INFO", logger="flows")
    for name in ("BACKUP_RECIPIENTS", "PROOF_VERIFYING_KEYS", "BACKUP_SIGNING_KEY"):
        monkeypatch.setenv(name, stage.environ[name])
    which, _, said = backup("test").partition(": ")
    assert said.startswith("500 rows of 1 table")
    assert "not recorded in the ledger: the PostgresServer of test-ledger needs LEDGER_URL" in caplog.text
    assert not stage.half(which)
    name = f"{stage.database.database}_again"
    assert "every table compared" in restore("test", which=which, into=name)
    assert users(stage, name) == 500
    drop_database(stage.database.at(name))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("BACKUP_SIGNING_KEY", "was begun: the backup keys here hold no signing key"),
        ("BACKUP_RECIPIENTS", "the BackupKeys of test needs BACKUP_RECIPIENTS in the environment"),
        ("PROOF_VERIFYING_KEYS", "the BackupKeys of test needs PROOF_VERIFYING_KEYS in the environment"),
    ],
)
def test_alone_a_backup_without_all_of_its_keys_is_not_begun(
    stage: Scene, lost: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {"BACKUP_RECIPIENTS", "PROOF_VERIFYING_KEYS", "BACKUP_SIGNING_KEY"} - {lost}:
        monkeypatch.setenv(name, stage.environ[name])
    before = {entry.key for entry in stage.objects.list()}
    with pytest.raises(NotDone, match=sentence):
        backup("test")
    assert {entry.key for entry in stage.objects.list()} == before


@pytest.mark.usefixtures("alone")
def test_alone_a_backup_is_proven_and_the_proof_lies_beside_it(
    stage: Scene, proven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BACKUP_RECIPIENTS", "PROOF_VERIFYING_KEYS", "PROOF_SIGNING_KEY"):
        monkeypatch.setenv(name, stage.environ[name])
    before = len(stage.bucket.proofs)
    assert f"{proven} is proven: 500 rows of 1 table restored and equal" in prove("test", proven)
    assert [each.backup for each in stage.bucket.proofs[before:]] == [proven]
