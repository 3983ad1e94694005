"""backup meets a pooler, a ledger that says no, a store that lies: refused early, or a good backup all the same."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from blocks.errors import Refused
from blocks.postgres.address import Address
from flows.backup.flow import backup
from flows.backup.steps import CommitPlan, commit
from flows.catalogue.layout import MANIFEST, signature_of
from flows.effect import NotDone
from flows.ledger import Busy, Fenced, Stopped, carry_out_alone
from flows.world import TOLD_BY_THE_LEDGER, refuse_other_pool
from tests.parts.environment import url_of
from tests.parts.pooler import Pooler
from tests.parts.scene import Scene


@pytest.fixture(scope="module")
def taken(stage: Scene) -> str:
    """A backup."""
    backup("test")
    return stage.bucket.backups[0].id


def commit_plan(stage: Scene, taken: str) -> CommitPlan:
    """Its commit, once more."""
    found = stage.one(taken)
    assert found
    assert found.manifest
    text = found.manifest.model_copy(update={"operation": None}).text().decode()
    return CommitPlan(stage=stage.name, backup=taken, folder=found.folder, manifest=text)


def test_a_transaction_pooler_is_refused_before_anything(
    stage: Scene, socket_database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Pooler(socket_database, by_transaction=True)) as pooler:
        monkeypatch.setenv("DATABASE_URL", url_of(pooler.way_in()))
        with pytest.raises(NotDone, match=f"is '{socket_database.database}' by its block and .* by test.toml"):
            backup("test")
        stage.toml(stage.database.database, socket_database.database)
        try:
            with pytest.raises(NotDone, match="is a transaction pooler's"):
                backup("test")
        finally:
            stage.toml()
    for failed in [each for each in stage.world.ledger.backups() if each.state == "failed"]:
        stage.world.ledger.forget(failed.id)


def test_a_commit_over_a_wrong_signature_signs_the_manifest_anew(stage: Scene, taken: str) -> None:
    plan = commit_plan(stage, taken)
    stage.objects.put(plan.folder + signature_of(MANIFEST), b"\0" * 64)

    stage.world.carry_out(commit, plan, key="commit again")

    there, signature = (stage.objects.get(plan.folder + name) for name in (MANIFEST, signature_of(MANIFEST)))
    assert stage.world.keys.verify(there, signature)


def test_a_commit_that_the_store_refuses_says_so_and_not_that_nothing_is_there(
    stage: Scene, taken: str, tmp_path: Path
) -> None:
    """A dangling link is what a missing right looks like: the put is refused, and there is nothing to read."""
    plan = commit_plan(stage, taken).model_copy(update={"folder": "curator/"})
    (tmp_path / stage.place.prefix / "curator").mkdir(parents=True)
    (tmp_path / stage.place.prefix / "curator" / MANIFEST).symlink_to(tmp_path / "nowhere")
    stage.toml('bucket = "backups"', f'kind = "directory"\nfolder = "{tmp_path}"')
    try:
        world = stage.world
    finally:
        stage.toml()
    with pytest.raises(Refused, match="exists already"):
        carry_out_alone(commit, plan, world)


def unmigrated(stage: Scene) -> str:
    """A ledger made anew, without its tables."""
    return url_of(stage.ledger.at("template1"))


def wrong_password(stage: Scene) -> str:
    """A ledger that lets nobody in."""
    return url_of(replace(stage.ledger, password="canary"))


@pytest.mark.parametrize("ledger", [unmigrated, wrong_password])
def test_a_ledger_that_says_no_costs_no_backup(
    stage: Scene,
    ledger: Callable[[Scene], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="flows")
    before = {each.id for each in stage.bucket.backups}
    monkeypatch.setenv("LEDGER_URL", ledger(stage))

    assert "500 rows of 1 table" in backup("test")

    assert "committed without the ledger" in caplog.text
    assert "not recorded in the ledger" in caplog.text
    after = stage.bucket
    assert not after.unreadable
    assert len({each.id for each in after.backups} - before) == 1
    with pytest.raises(NotDone, match="before-deploy backup needs the ledger"):
        backup("test", "before-deploy")


@pytest.mark.parametrize("ledger", [unmigrated, wrong_password])
def test_a_ledger_that_says_no_hides_no_cause(
    stage: Scene, ledger: Callable[[Scene], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_URL", ledger(stage))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-canary-secret")
    with pytest.raises(NotDone, match=r"SignatureDoesNotMatch"):
        backup("test")


@pytest.mark.parametrize("error", [Busy("held"), Fenced("taken over"), Stopped("asked to stop")])
def test_what_a_working_ledger_refuses_is_no_reason_to_commit_without_it(error: Refused) -> None:
    assert isinstance(error, TOLD_BY_THE_LEDGER)


@pytest.mark.parametrize("pool", [None, "production"])
def test_a_stage_runs_on_its_own_work_pool_or_by_hand(pool: str | None) -> None:
    refuse_other_pool("production", pool)


def test_a_stage_is_refused_on_the_work_pool_of_another() -> None:
    with pytest.raises(NotDone, match="'production' was asked for on a worker of 'staging'"):
        refuse_other_pool("production", "staging")


def end_once_waited_for(migration: psycopg.Connection, database: Address) -> None:
    """End the migration when somebody has waited for its lock for longer than the limit."""
    waited = "select 1 from pg_locks where not granted and clock_timestamp() - waitstart > '1.2s'"
    with database.connect() as connection:
        deadline = time.monotonic() + 30
        while not connection.execute(waited).fetchall() and time.monotonic() < deadline:
            time.sleep(0.05)
    migration.rollback()


def test_a_snapshot_past_its_limit_ends_the_backup_and_says_what_to_do(stage: Scene) -> None:
    """A migration's lock on a sequence keeps the snapshot waiting for longer than the limit."""
    before = {each.id for each in stage.bucket.backups}
    stage.toml('lock_wait = "5s"', 'lock_wait = "5s"\nsnapshot_limit = "1s"')
    try:
        with stage.database.connect(autocommit=False) as migration:
            migration.execute("create sequence public.held_up")
            migration.commit()
            migration.execute("drop sequence public.held_up")
            threading.Thread(target=end_once_waited_for, args=(migration, stage.database)).start()
            with pytest.raises(NotDone, match=r"older than 1 s \(database\.snapshot_limit\)"):
                backup("test")
    finally:
        stage.toml()
        with stage.database.connect() as connection:
            connection.execute("drop sequence public.held_up")
    assert {each.id for each in stage.bucket.backups} == before
    failed = [each for each in stage.world.ledger.backups() if each.state == "failed"]
    assert ["snapshot_limit" in str(each.error) for each in failed] == [True]
    stage.world.ledger.forget(failed[0].id)


def test_a_server_newer_than_the_tools_is_refused_by_the_plan_before_a_table_is_locked(
    stage: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A migration holds the table: a backup that came as far as its lock would tell of that instead."""
    caplog.set_level("INFO", logger="flows")
    for name in ("pg_dump", "pg_restore", "psql"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) 15.1'\n")
        (tmp_path / name).chmod(0o755)
    sentence = f"server is 17, the newest pg_dump in {tmp_path} is 15: put the client tools of Postgres 17 on PATH"
    stage.toml('lock_wait = "5s"', f'lock_wait = "1s"\ntools = "{tmp_path}"')
    try:
        backup("test", dry_run=True)
        assert f"## Stands in the way\n\n- {sentence}" in caplog.text
        with stage.database.connect(autocommit=False) as migration:
            migration.execute("lock table public.users in access exclusive mode")
            with pytest.raises(NotDone, match=f"^no backup of .* was begun: {sentence}"):
                backup("test")
    finally:
        stage.toml()
    (failed,) = [each for each in stage.world.ledger.backups() if each.state == "failed"]
    stage.world.ledger.forget(failed.id)
