"""backup when things are missing, die or fall silent: a good backup or none, and one plain sentence."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows.backup.flow import backup
from flows.catalogue.flow import catalogue
from flows.catalogue.tasks import graded_with_memory
from flows.effect import NotDone
from flows.ledger import Unheard
from flows.prune.flow import prune
from flows.reconcile.tasks import record_strays
from flows.world import World
from tests.parts.environment import url_of
from tests.parts.processes import alive, children
from tests.parts.scene import Scene

NOBODY = "postgresql://nobody@127.0.0.1:9/none"
ROOT = Path(__file__).parents[2]


def complete(stage: Scene) -> list[str]:
    """The ids of the complete ones, by the ledger."""
    return sorted(each.id for each in stage.world.ledger.backups() if each.state == "complete")


def listed(stage: Scene) -> list[str]:
    """The ids of those that the bucket has, each of them believable."""
    assert not stage.bucket.unreadable
    return sorted(each.id for each in stage.bucket.backups)


def stored(scene: Scene) -> set[str]:
    """The folders of backups that have a manifest."""
    return {entry.key.rpartition("/")[0] for entry in scene.objects.list() if entry.key.endswith("manifest.json")}


def failures(stage: Scene) -> list[str | None]:
    """The causes of the failed ones that are remembered, and forgotten now."""
    failed = [each for each in stage.world.ledger.backups() if each.state == "failed"]
    for each in failed:
        stage.world.ledger.forget(each.id)
    return [each.error for each in failed]


def refused(scene: Scene, **given: object) -> str:
    """The one sentence that a backup ends with, that stored nothing."""
    before = stored(scene)
    with pytest.raises(NotDone) as error:
        backup(**({"stage": "test"} | given))  # type: ignore[arg-type]
    assert stored(scene) == before
    sentence = str(error.value)
    assert "\n" not in sentence
    assert "canary" not in sentence
    return sentence


def test_two_at_once_are_two_good_backups(stage: Scene) -> None:
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(backup("test", "daily"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([text for text in said if "500 rows of 1 table" in text]) == 2
    assert complete(stage) == listed(stage)
    assert not stage.world.ledger.open()
    for found in stage.bucket.found:
        assert re.fullmatch(r"level 2, 1\.\d+\.\d+", found.believed.tools["zstd"])
        assert re.fullmatch(r"pyrage 1\.\d+\.\d+", found.believed.tools["age"])


def test_bad_input_is_one_sentence_and_nothing_is_stored(stage: Scene, caplog: pytest.LogCaptureFixture) -> None:
    assert "no stage 'tset': known are test" in refused(stage, stage="tset")
    assert "Traceback" not in caplog.text
    stage.toml("lock_wait", "lock_wiat")
    try:
        sentence = refused(stage)
    finally:
        stage.toml()
    assert "test.toml" in sentence
    assert "lock_wiat" in sentence
    assert "lock_wait" in sentence
    assert "kind" in refused(stage, kind="hourly")


def test_a_table_that_may_not_be_read_is_named(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage.database.connect() as connection:
        for command in (
            "create role reader_of_some login password 'reader-canary'",
            "create table public.hidden (id int)",
            "grant select on public.users, public.users_id_seq to reader_of_some",
        ):
            connection.execute(command.encode())
    monkeypatch.setenv("DATABASE_URL", url_of(replace(stage.database, user="reader_of_some", password="reader-canary")))
    try:
        sentence = refused(stage)
    finally:
        with stage.database.connect() as connection:
            for command in ("drop table public.hidden", "drop owned by reader_of_some", "drop role reader_of_some"):
                connection.execute(command.encode())
    assert "public.hidden" in sentence
    assert "grant it that (pg_read_all_data" in sentence
    assert failures(stage) == [sentence]


def test_a_key_that_signs_proofs_signs_no_backup(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_SIGNING_KEY", stage.keys.proof_signing_key)
    assert "is trusted for proofs, not for backups" in refused(stage)
    assert len(failures(stage)) == 1


def test_a_backup_of_a_database_that_is_down_is_remembered_shown_and_stops_the_prune(
    stage: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    with monkeypatch.context() as patch:
        patch.setenv("DATABASE_URL", url_of(replace(stage.database, port=9)))
        with pytest.raises(NotDone, match="nothing answers there") as down:
            backup("test", "frequent")
    catalogue("test")
    assert f"failed: {down.value}" in caplog.text
    assert re.match(r"nothing is pruned: the newest backup, \S+-frequent-\w+, is failed", prune("test", dry_run=True))
    assert failures(stage) == [str(down.value)]


def test_a_rule_that_matches_nothing_is_remembered_but_not_of_a_dry_run(stage: Scene) -> None:
    stage.toml('lock_wait = "5s"', 'lock_wait = "5s"\nexclude_data = ["public.gone"]')
    try:
        assert "no table matches it" in refused(stage, dry_run=True)
        assert failures(stage) == []
        sentence = refused(stage)
    finally:
        stage.toml()
    assert failures(stage) == [sentence]


def test_a_failure_is_remembered_with_its_cause(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-canary-secret")
    sentence = refused(stage)
    assert failures(stage) == [sentence]


def test_without_the_ledger_a_backup_is_good_and_recorded_later(
    stage: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    with monkeypatch.context() as patch:
        patch.setenv("LEDGER_URL", NOBODY)
        assert "a before-deploy backup needs the ledger" in refused(stage, kind="before-deploy")
        assert "500 rows of 1 table" in backup("test", "on-demand")
    assert "committed without the ledger" in caplog.text
    missed = set(listed(stage)) - set(complete(stage))
    assert len(missed) == 1
    assert "1 record found in the bucket and recorded" in record_strays.fn(stage.world)
    assert complete(stage) == listed(stage)


def test_a_ledger_made_anew_and_still_empty_costs_no_backup(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_URL", url_of(stage.ledger.at("template1")))
    assert "500 rows of 1 table" in backup("test")


def test_a_backup_in_break_glass_is_not_pending_and_its_report_says_how_to_prove_it(
    stage: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    sentence = backup("test", "daily")

    kept = max(stage.world.ledger.backups(), key=lambda each: each.started)
    command = f"python -m deployments run prove --stage test --param which={kept.id}"
    assert kept.proof_asked_at is None
    assert {each.id: each.grade for each in graded_with_memory(stage.world, stage.bucket)}[kept.id] == "unproven"
    assert command in sentence
    assert (
        f"| proof | prove was not asked for, as no Prefect server is used here; do it with: {command} |" in caplog.text
    )


@pytest.mark.usefixtures("stage")
def test_a_silent_ledger_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_URL", NOBODY)
    with pytest.raises(Unheard, match="ledger"):
        World.of("test").ledger.open()


def test_a_run_that_is_killed_takes_its_workers_with_it_and_lists_nothing(stage: Scene) -> None:
    with stage.database.connect() as connection:
        connection.execute(
            "create table public.big as select n, repeat(md5(n::text), 30) as text from generate_series(1, 150000) n"
        )
    before = listed(stage)
    command = [sys.executable, "-m", "deployments", "run", "backup", "--stage", "test"]
    with subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL) as run:
        below: list[int] = []
        end = time.monotonic() + 60
        while not any(map(_is_psql, below)):
            assert run.poll() is None, "it was over before it could be killed"
            assert time.monotonic() < end
            below = [pid for pid in children(run.pid) if alive(pid)]
            time.sleep(0.01)
        below = children(run.pid)
        run.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while left := [pid for pid in below if alive(pid)]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.05)
    assert listed(stage) == before
    with stage.database.connect() as connection:
        connection.execute("drop table public.big")
    assert "500 rows of 1 table" in backup("test")
    assert len(listed(stage)) == len(before) + 1


def _is_psql(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "psql"
    except (FileNotFoundError, ProcessLookupError):
        return False
