"""restore when another database took the name of its own, and other worlds that it must not make worse."""

import json
import time
from collections.abc import Generator
from dataclasses import replace

import pytest
from psycopg import sql

from blocks.postgres.cluster import Cluster
from blocks.postgres.tools import server_tools
from deployments.breakglass import run_flow
from flows import people
from flows.backup.flow import backup
from flows.effect import BreakGlass, NotDone
from flows.prove.flow import prove
from flows.restore.flow import restore
from tests.parts.deaths import DIED, expire, fork, reconcile
from tests.parts.environment import url_of
from tests.parts.postgres import drop_database, running
from tests.parts.scene import Scene


@pytest.fixture(scope="module")
def taken(stage: Scene) -> str:
    """A backup."""
    backup("test")
    return stage.bucket.backups[0].id


def test_an_undo_leaves_a_database_that_another_put_in_place_of_the_half_made_one(stage: Scene, taken: str) -> None:
    name = f"{stage.database.database}_theirs"
    there, ledger = stage.database.at(name), stage.world.ledger
    assert fork(lambda: restore("test", which=taken, into=name), f"create {name}:done").ended() == DIED
    drop_database(there)
    with stage.database.at("postgres").connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with there.connect() as connection:
        connection.execute("create table public.theirs (id int)")

    expire(stage.ledger)
    end = time.monotonic() + 20
    while not any(entry.failures for entry in ledger.open()):
        assert time.monotonic() < end, [str(entry) for entry in ledger.open()]
        ledger.tick_once()
        time.sleep(0.02)
    assert [(entry.state, "is not what this restore made" in str(entry)) for entry in ledger.open()] == [
        ("undoing", True)
    ]
    with there.connect() as connection:
        assert connection.execute("select from public.theirs").fetchall() == []

    with there.connect() as connection:
        connection.execute("drop table public.theirs")
    expire(stage.ledger)
    reconcile(ledger)
    assert name not in stage.databases()
    assert ledger.history(1)[0].state == "undone"


@pytest.fixture
def rescue() -> Generator[Cluster]:
    """Another server."""
    yield from running(server_tools(17))


def test_a_server_without_the_role_that_a_policy_names_is_refused_before_anything(
    stage: Scene, rescue: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage.database.connect() as connection:
        for command in ("create role tenant_of_policies", "create policy own on public.users to tenant_of_policies"):
            connection.execute(command.encode())
    monkeypatch.setenv("RESCUE_URL", url_of(rescue.address()))
    try:
        which = backup("test").partition(":")[0]
        with pytest.raises(NotDone, match="policies name roles that are missing there: tenant_of_policies; create"):
            restore("test", which=which, into="rescue:refused")
        with rescue.address().connect() as connection:
            assert not connection.execute("select from pg_database where datname = 'refused'").fetchall()
            connection.execute("create role tenant_of_policies")
        assert "every table compared" in restore("test", which=which, into="rescue:there")
    finally:
        with stage.database.connect() as connection:
            for command in ("drop policy own on public.users", "drop role tenant_of_policies"):
                connection.execute(command.encode())


def test_what_hangs_on_a_left_out_schema_is_said_by_the_backup_and_refused_by_the_restore(
    stage: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    with stage.database.connect() as connection:
        for command in ("create schema auth", "create table auth.t (id int)", "create view public.v as table auth.t"):
            connection.execute(command.encode())
    stage.toml('lock_wait = "5s"', 'lock_wait = "5s"\nexclude_schemas = ["auth"]')
    try:
        which, before = backup("test").partition(":")[0], stage.databases()
        with pytest.raises(NotDone, match="schema auth was left out of this backup, and on it hang view public"):
            restore("test", which=which)
        assert stage.databases() == before
        assert "is unproven: the scratch lacks schema auth, on which hang view public.v" in prove("test", which)
    finally:
        stage.toml()
        with stage.database.connect() as connection:
            connection.execute("drop schema auth cascade")
    assert "- on schema auth, which is left out, hang view public.v: a restore will refuse this backup" in caplog.text


def test_a_plain_role_that_may_not_dress_the_new_database_is_told_before_anybody_is_asked(
    stage: Scene, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, role = sql.Identifier(stage.database.database), sql.Identifier("plain_swapper")
    before = (
        "create role {role} login createdb password 'swapper-canary' in role pg_signal_backend",
        "alter database {live} owner to {role}",
        "alter database {live} set app.secret to 'setting-canary'",
    )
    after = ("alter database {live} reset all", "alter database {live} owner to postgres", "drop role {role}")
    with stage.database.connect() as connection:
        for command in before:
            connection.execute(sql.SQL(command).format(live=live, role=role))
    monkeypatch.setenv("DATABASE_URL", url_of(replace(stage.database, user="plain_swapper", password="swapper-canary")))
    databases = stage.databases()
    try:
        with pytest.raises(
            NotDone, match=r"nothing was restored: the role may not set app\.secret on the new database"
        ):
            restore("test", which=taken, swap=stage.database.database)
        assert stage.databases() == databases
    finally:
        with stage.database.connect() as connection:
            for command in after:
                connection.execute(sql.SQL(command).format(live=live, role=role))


def test_break_glass_restores_into_the_server_of_a_variable_and_names_the_backup_as_json(
    stage: Scene, taken: str, rescue: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESCUE_URL", url_of(rescue.address()))
    given = {"which": taken, "into": "rescue:app"}
    logged = people.LOG.handlers, people.LOG.propagate
    try:
        code = run_flow("restore", stage.name, given, BreakGlass(), as_json=True)
    finally:
        people.LOG.handlers, people.LOG.propagate = logged
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (code, said["done"], said["backups"]) == (0, True, [taken])
    (entry,) = [each for each in stage.world.ledger.history(1) if each.kind == "restore"]
    assert (said["database"], said["operation"]) == ("app", entry.id)
    assert "# Plan" in printed.err
    assert "is restored as app on" in said["sentence"]
    with rescue.address("app").connect() as connection:
        assert connection.execute("select count(*) from public.users").fetchone() == (500,)
    assert "app" not in stage.databases()
