"""restore meets a world that lies, lacks, or moves: refused before any effect in one sentence, or undone whole."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from psycopg import sql
from pydantic import SecretStr

from blocks.keys import new_keys
from blocks.postgres.address import Address
from flows.backup.flow import backup
from flows.catalogue.layout import MANIFEST, signature_of
from flows.effect import NotDone, without_prefect
from flows.ledger import Operation, steps
from flows.prove.flow import prove
from flows.restore import tasks
from flows.restore.flow import restore
from flows.restore.plan import RestorePlan
from flows.restore.steps import bring_back
from flows.verify.flow import verify
from tests.parts.deaths import fork
from tests.parts.environment import url_of
from tests.parts.postgres import drop_database
from tests.parts.scene import Scene

BARE = "shipkeeper_test_bare"


@pytest.fixture(scope="module")
def proven(stage: Scene) -> str:
    """A backup that is proven."""
    backup("test", "daily")
    assert "is proven: 500 rows" in prove("test")
    return stage.bucket.backups[0].id


@pytest.fixture(scope="module")
def other(stage: Scene, proven: str) -> str:
    """Another backup of the same database, whose bytes differ."""
    del proven
    with stage.database.connect() as connection:
        connection.execute("update public.users set name = name || '!'")
    backup("test", "weekly")
    return max(each.id for each in stage.bucket.backups if each.kind == "weekly")


@pytest.fixture(scope="module")
def bare(stage: Scene) -> Generator[Address]:
    """A role that may enter and nothing more."""
    address = replace(stage.database, user=BARE, password="bare-canary-password")
    with stage.database.connect() as connection:
        connection.execute(f"create role {BARE} login password 'bare-canary-password'".encode())
    yield address
    with stage.database.connect() as connection:
        connection.execute(f"drop role {BARE}".encode())


def ended(sentence: pytest.ExceptionInfo[NotDone]) -> str:
    """The one sentence: no line breaks, no traceback, no password."""
    text = str(sentence.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert "canary" not in text
    return text


@contextmanager
def nothing_happens(stage: Scene) -> Generator[None]:
    """No database comes or goes, and the ledger hears of no operation."""
    before = stage.databases(), len(stage.world.ledger.history(1000))
    yield
    assert (stage.databases(), len(stage.world.ledger.history(1000))) == before


def truncated(data: bytes, _other: bytes) -> bytes:
    return data[:-10]


def flipped(data: bytes, _other: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def swapped(_data: bytes, other: bytes) -> bytes:
    return other


TAMPERED: list[tuple[str, Callable[[bytes, bytes], bytes]]] = [
    ("data/00000.public.users.copy.zst.age", truncated),
    ("data/00000.public.users.copy.zst.age", flipped),
    ("data/00000.public.users.copy.zst.age", swapped),
    ("schema.pgc.zst.age", flipped),
    ("globals.sql.zst.age", flipped),
]


@pytest.mark.parametrize(("name", "tamper"), TAMPERED, ids=lambda each: getattr(each, "__name__", str(each)[:7]))
def test_an_altered_object_is_refused_before_anything_and_found_by_verify_and_prove(
    stage: Scene, proven: str, other: str, name: str, tamper: Callable[[bytes, bytes], bytes]
) -> None:
    folder = stage.bucket.found[0].folder.replace(stage.bucket.found[0].id, proven)
    good, strange = stage.objects.get(folder + name), stage.objects.get(folder.replace(proven, other) + name)
    stage.objects.put(folder + name, tamper(good, strange))
    try:
        with nothing_happens(stage), pytest.raises(NotDone) as refused:
            restore("test", which=proven)
        assert name in ended(refused)
        with pytest.raises(NotDone) as found:
            verify("test", which=proven)
        assert name in ended(found)
        with pytest.raises(NotDone, match="is disproven") as disproven:
            prove("test", which=proven)
        assert name in ended(disproven)
    finally:
        stage.objects.put(folder + name, good)
        for key in [each for each in stage.bucket.found[0].keys if "proof-" in each]:
            if b'"disproven"' in stage.objects.get(key.removesuffix(".sig")):
                stage.objects.delete([key, signature_of(key)])
                break
    assert not [name for name in stage.databases() if name.startswith("shipkeeper_proof_")]


@pytest.mark.parametrize("forgery", ["text", "key", "role", "place"])
def test_a_forged_manifest_is_believed_by_nobody(stage: Scene, proven: str, other: str, forgery: str) -> None:
    folder = next(each.folder for each in stage.bucket.found if each.id == proven)
    names = (MANIFEST, signature_of(MANIFEST))
    good = [stage.objects.get(folder + name) for name in names]
    if forgery == "text":
        stage.objects.put(folder + MANIFEST, good[0].replace(b'"rows":500', b'"rows":501'))
    elif forgery == "key":
        strange = SecretStr(new_keys().backup_signing_key)
        keys = stage.world.keys.model_copy(update={"signing_key": strange})
        stage.objects.put(folder + signature_of(MANIFEST), keys.sign(good[0]))
    elif forgery == "role":
        stage.objects.put(folder + signature_of(MANIFEST), stage.world.proof_keys.sign(good[0]))
    else:
        for name in names:
            stage.objects.put(folder + name, stage.objects.get(folder.replace(proven, other) + name))
    try:
        with nothing_happens(stage), pytest.raises(NotDone) as refused:
            restore("test", which=proven)
        assert "not believable" in ended(refused)
        for flow in (verify, prove):
            with pytest.raises(NotDone) as found:
                flow("test", which=proven)
            assert proven in ended(found)
    finally:
        for name, data in zip(names, good, strict=True):
            stage.objects.put(folder + name, data)


def test_a_manifest_that_lies_about_rows_leaves_no_database_and_is_disproven(stage: Scene, proven: str) -> None:
    """Signed, but not what the objects hold: what a defect of ours would look like."""
    found = next(each for each in stage.bucket.found if each.id == proven)
    manifest, before = found.manifest, stage.databases()
    assert manifest
    objects = tuple(
        each.model_copy(update={"xxh3_128": "0" * 32}) if each.role == "data" else each for each in manifest.objects
    )
    stage.sign_anew(manifest.model_copy(update={"objects": objects}), found.folder)
    try:
        with pytest.raises(NotDone) as wrong:
            restore("test", which=proven, into=f"{stage.database.database}_lie")
        assert "users" in ended(wrong)
        assert stage.databases() == before
        entry = stage.world.ledger.history(1)[0]
        assert (entry.kind, entry.state) == ("restore", "undone")
        with pytest.raises(NotDone, match="is disproven"):
            prove("test", which=proven)
        assert stage.databases() == before
    finally:
        stage.sign_anew(manifest, found.folder)


REFUSED: list[tuple[dict[str, str], str]] = [
    ({"which": "20200101T000000Z-daily-aaaaaa"}, "no backup 20200101T000000Z-daily-aaaaaa"),
    ({"which": "2020-01-01T00:00Z"}, "no backup before 2020-01-01T00:00Z: the first is"),
    ({"which": "yesterday"}, "which names no backup"),
    ({"into": "{database}"}, "exists already on"),
    ({"into": "x" * 64}, "longer than 63 bytes"),
    ({"into": "elsewhere:x"}, "no PostgresServer block 'elsewhere'"),
    ({"swap": "{ledger}"}, "type the live database's name"),
    ({"swap": "postgres"}, "type the live database's name"),
]


@pytest.mark.usefixtures("proven")
@pytest.mark.parametrize(("given", "sentence"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_is_refused_in_one_sentence(stage: Scene, given: dict[str, str], sentence: str) -> None:
    names = {"database": stage.database.database, "ledger": stage.ledger.database}
    with nothing_happens(stage), pytest.raises(NotDone) as refused:
        restore("test", **{name: value.format(**names) for name, value in given.items()})
    assert sentence in ended(refused)


@pytest.mark.usefixtures("proven")
def test_what_the_host_or_the_role_lacks_is_said_before_anything(
    stage: Scene, bare: Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = tmp_path / "identity"
    wrong.touch(mode=0o600)
    wrong.write_text(new_keys().team_identity)
    lacks = [
        ({"DATABASE_URL": url_of(bare)}, "grant it CREATEDB"),
        ({"RESTORE_IDENTITY_FILE": str(tmp_path / "none")}, "is not on this host"),
        ({"RESTORE_IDENTITY_FILE": str(wrong)}, "no identity on this host opens"),
        ({"BACKUP_VERIFYING_KEYS": new_keys().backup_verifying_key}, "the catalogue is empty; not believable is"),
        ({"LEDGER_URL": "postgresql://nobody@127.0.0.1:9/none"}, "nothing answers there"),
    ]
    for variables, sentence in lacks:
        with monkeypatch.context() as patch, nothing_happens(stage):
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(NotDone) as refused:
                restore("test")
        assert sentence in ended(refused)


@pytest.mark.usefixtures("proven")
def test_a_restore_of_a_name_that_another_one_holds_is_told_who(stage: Scene) -> None:
    name = f"{stage.database.database}_twice"
    other = fork(lambda: restore("test", into=name), "create *:intent", "stop")  # it holds the name, and stands still
    assert other.stopped()
    try:
        with pytest.raises(NotDone, match=f"/database/{name} is held by restore"):
            restore("test", into=name)
    finally:
        other.wake()
    drop_database(stage.database.at(name))


@pytest.mark.usefixtures("proven")
def test_a_database_that_came_between_plan_and_lease_is_not_touched(stage: Scene) -> None:
    name = f"{stage.database.database}_mine"
    there = stage.database.at(name)
    chosen = tasks.find(stage.world, "latest-proven", "run")
    again = partial(tasks.look_again, stage.world, chosen, into=name, swap="", key="run")
    plan = again()
    with stage.database.at("postgres").connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with there.connect() as connection:
        connection.execute("create table public.users (mine int)")

    with pytest.raises(NotDone, match="exists already"):
        stage.world.carry_out(bring_back, plan, key="between", look=again)

    with there.connect() as connection:
        assert connection.execute("select mine from public.users").fetchall() == []
    drop_database(there)


@steps("pass", holds=["{stage}/backups/{new}"], forward=True)
def pass_by(op: Operation, plan: RestorePlan) -> None:
    """Another operation, that does nothing."""


def test_a_suspended_restore_finds_its_own_database_behind_hundreds_of_other_operations(
    stage: Scene, proven: str, other: str
) -> None:
    """Its run starts again from its first line; a second database would be restored where it is not found."""
    world, run, name = stage.world, "suspended", f"{stage.database.database}_own"
    plan = tasks.make_plan(world, tasks.find(world, proven, run), into=name, swap="", key=run)
    world.carry_out(bring_back, plan, key=tasks.restore_key(run, proven))
    for n in range(201):
        world.carry_out(pass_by, plan, key=f"pass {n}")

    chosen = tasks.find(world, other, run)
    again = tasks.make_plan(world, chosen, into=name, swap="", key=run)

    assert (chosen.manifest.id, again.refusals) == (proven, ())
    drop_database(stage.database.at(name))


def test_a_plan_names_what_a_dry_run_would_do_and_does_nothing(stage: Scene, proven: str) -> None:
    with nothing_happens(stage):
        assert restore("test", dry_run=True).startswith(f"restore {proven} into {stage.database.database}_restore_")


@pytest.mark.usefixtures("proven")
def test_a_database_dressed_by_hand_keeps_its_dress_through_a_swap(stage: Scene) -> None:
    """Settings, rights and limits belong to a database, not to its name: the swapped-in one wears them all."""
    live = stage.database.database
    with stage.database.connect() as connection:
        for command in (
            "alter database {} set search_path = '', \"odd, one\"",
            "alter database {} set app.secret = 'setting-canary'",
            "alter database {} connection limit 50",
        ):
            connection.execute(sql.SQL(command).format(sql.Identifier(live)))
    with without_prefect(yes="anna"), _busy_clients(stage.database):
        sentence = restore("test", swap=live)
    assert "canary" not in sentence
    with stage.database.at("postgres").connect() as connection:
        seen = connection.execute(
            "select datconnlimit, (select setconfig from pg_db_role_setting s where s.setdatabase = d.oid)"
            " from pg_database d where datname = %s",
            [live],
        ).fetchone()
    assert seen == (50, ['search_path="", "odd, one"', "app.secret=setting-canary"])
    drop_database(stage.database.at(sentence.rpartition(" ")[2]))


@contextmanager
def _busy_clients(address: Address) -> Generator[None]:
    """Clients that come back as fast as they can."""
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                with address.connect() as connection:
                    connection.execute("select pg_sleep(0.05)")
            except Exception:  # noqa: BLE001 - being ended is what a swap does to clients
                over.wait(0.01)

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()
