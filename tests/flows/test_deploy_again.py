"""A deploy that died goes on; a backup before it; going back, and then no further: each with what it refuses."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.deploy.flow import deploy, history
from flows.effect import NotDone
from flows.records import Backup, Proof, backup_id
from flows.rollback.flow import rollback
from tests.parts.rollout import BAKE, ROOT, SHORT, Rollout
from tests.parts.slack import CHANNEL, TOKEN, FakeSlack, slack

__all__ = ["slack"]
pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("short_bakes")]
COMMANDS = 'commands = { test = "python -m unittest --quiet" }'


def remembered(lab: Rollout, age: timedelta, *verdicts: str) -> str:
    """A backup that the ledger knows of, with its proofs; its id."""
    at = datetime.now(UTC) - age
    made = backup_id(at, "on-demand", "abc123")
    about = {"id": made, "stage": "test", "service": "curator", "database": "app", "kind": "on-demand"}
    state = {"state": "complete", "snapshot_at": at, "started": at, "finished": at, "manifest_sha256": "ab" * 32}
    lab.world.ledger.remember(Backup.model_validate({**about, **state}))
    for verdict in verdicts:
        paper = {"backup": made, "verdict": verdict, "at": at, "prover": "p", "server_version": "17"}
        lab.world.ledger.remember(Proof.model_validate({**paper, "manifest_sha256": "ab" * 32}))
    return made


def ended_in_its_bake(lab: Rollout, looks: int, by: signal.Signals) -> tuple[str, str]:
    """A process of its own that deploys, and gets a signal once so many looks are stored; its key, its last words."""
    known = len(lab.world.ledger.releases.all())
    command = [sys.executable, "-m", "deployments", "run", "deploy", "--stage", "test"]
    with (lab.folder / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=said, stderr=said)
    try:
        end = time.monotonic() + 90
        while time.monotonic() < end and process.poll() is None:
            told = lab.world.ledger.releases.all()[known:]
            if told and len(lab.world.ledger.releases.looks(told[-1].release.key)) >= looks:
                process.send_signal(by)
                process.wait(60)
                return told[-1].release.key, (lab.folder / "said").read_text()
            time.sleep(0.1)
        raise AssertionError(f"it never baked: exit code {process.poll()}")
    finally:
        process.kill()
        process.wait()


def test_a_deploy_killed_in_its_bake_goes_on_where_it_was(
    lab: Rollout, slack: FakeSlack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    variables = {"SLACK_BOT_TOKEN": TOKEN, "SLACK_CHANNEL": CHANNEL, "SLACK_API_URL": slack.url}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lab.also(COMMANDS, f"""commands = {{ count = "sh -c 'echo x >> {asked}'" }}""")
    lab.also("proven_backup = false", "proven_backup = true")
    lab.also(SHORT, 'minimum = "15s"\nmaximum = "20s"')
    head = lab.repository.release("feat: interrupted", {})

    key, _ = ended_in_its_bake(lab, 3, signal.SIGKILL)
    releases = lab.world.ledger.releases
    seen, live_at = releases.looks(key), releases.bake(key)
    assert lab.serves() == head  # what it started lives on

    said = deploy("test")

    assert "KEPT" in said
    told = lab.newest
    assert (told.release.key, told.state, releases.bake(key)) == (key, "done", live_at)
    assert releases.looks(key)[: len(seen)] == seen
    assert len(releases.looks(key)) > len(seen)
    assert asked.read_text() == "x\n"  # no new gates
    assert [each.kind for each in lab.world.ledger.backups()] == ["before-deploy"]
    [message] = slack.messages.values()
    assert message["text"] == "Deployment to test completed, inconclusive"
    assert slack.asked.count("/api/chat.postMessage") == 1


def test_a_deploy_told_to_end_in_its_bake_undoes_itself(lab: Rollout) -> None:
    before = lab.serves()
    lab.repository.release("feat: ended by a signal", {})
    lab.also(SHORT, 'minimum = "15s"\nmaximum = "20s"')

    key, said = ended_in_its_bake(lab, 1, signal.SIGTERM)

    told = lab.newest
    assert (told.release.key, told.state) == (key, "undone")
    assert told.why == "cancelled: its process was told to end"
    assert said.splitlines()[-1].startswith("interrupted: what was under way is undone")
    assert lab.serves() == before
    assert lab.world.ledger.open() == []


def test_the_same_deploy_twice_goes_on_only_when_the_first_is_dead(lab: Rollout, slack: FakeSlack) -> None:
    """The one that is refused edits no message of the one that lives."""
    before = lab.serves()
    lab.repository.release("feat: asked for twice", {})
    lab.also(SHORT, 'minimum = "20s"\nmaximum = "30s"')
    command = [sys.executable, "-m", "deployments", "run", "deploy", "--stage", "test"]
    environ = {**os.environ, "SLACK_BOT_TOKEN": TOKEN, "SLACK_CHANNEL": CHANNEL, "SLACK_API_URL": slack.url}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 90
        while "live, and watched" not in str(slack.messages) and time.monotonic() < end:
            time.sleep(0.2)
        with pytest.raises(NotDone, match="is held by deploy"):
            deploy("test")
        [message] = slack.messages.values()
        assert message["text"] == "Deployment to test: live, and watched"
        rollback("test", reason="enough seen")
        assert process.wait(60)
    finally:
        process.kill()
        process.communicate()
    assert lab.serves() == before
    [message] = slack.messages.values()
    assert message["text"] == "Deployment to test rolled back"
    assert "asked to stop before the commit: rollback by" in message["attachments"][0]["text"]
    assert lab.world.ledger.releases.quarantined()[lab.repository.head()].endswith("enough seen")


def test_a_named_backup_must_be_proven_and_young(lab: Rollout) -> None:
    head = lab.repository.release("feat: with a backup of one's own", {})
    with pytest.raises(NotDone, match=r"backup: .* is proven and 2 h old, the RPO is 1 h"):
        deploy("test", backup=remembered(lab, timedelta(hours=2), "proven"))
    with pytest.raises(NotDone, match=r"backup: .* is not proven and 10 min old"):
        deploy("test", backup=remembered(lab, timedelta(minutes=10), "unproven"))
    with pytest.raises(NotDone, match="is not known to the ledger"):
        deploy("test", backup="20200101T000000Z-daily-abc123")
    with pytest.raises(NotDone, match="backup='yesterday' is neither 'before-deploy' nor the id of a backup"):
        deploy("test", backup="yesterday")
    assert lab.serves() != head
    lab.also("proven_backup = false", "proven_backup = true")
    known = len(lab.world.ledger.backups())
    young = remembered(lab, timedelta(minutes=20), "unproven", "proven")
    assert "KEPT" in deploy("test", backup=young)
    assert lab.serves() == head
    assert len(lab.world.ledger.backups()) == known + 1  # none was taken


def test_a_rollback_says_what_it_would_do(lab: Rollout, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    before = lab.serves()
    said = rollback("test", reason="to see", dry_run=True)
    assert said.startswith("rollback on test: back to v")
    assert "| quarantine | of v" in caplog.text
    assert "## Refused candidates" in caplog.text
    assert "it is in quarantine (" in caplog.text
    assert lab.serves() == before


def test_a_rollback_quarantines_and_a_pardon_lets_out(lab: Rollout, caplog: pytest.LogCaptureFixture) -> None:
    bad = lab.serves()
    rollback("test", reason="the list looks odd")
    with pytest.raises(
        NotDone, match=f"{bad[:8]} is in quarantine: v.* rolled back by .*: the list looks odd; deploy a"
    ):
        deploy("test", bad)
    with pytest.raises(NotDone, match=r"serves since a rollback .* no second one is chosen within 1 h"):
        rollback("test", reason="and further")
    caplog.set_level("INFO", logger="flows")
    history("test")
    assert re.search(r"quarantine: .*: the list looks odd$", caplog.text, re.MULTILINE)
    lab.also('stable_after = "2s"', f'stable_after = "2s"\npardoned = ["{bad[:10]}"]')
    assert "KEPT" in deploy("test", bad)
    assert lab.serves() == bad


def test_a_rollback_that_does_not_help_says_so_and_goes_no_further(lab: Rollout, slack: FakeSlack) -> None:
    """What the new release replaced begins to fail as well: the cause is elsewhere."""
    ill = lab.repository.release("feat: falls ill later", {"errors": 0.5, "errors_after": 160})
    deploy("test")
    good = lab.repository.release("feat: not to blame", {})
    deploy("test")
    before = len(lab.world.ledger.history())
    lab.toml(BAKE, 'minimum = "8s"\nmaximum = "12s"')
    with lab.visited(), pytest.raises(NotDone, match="the rollback did not help, the cause is elsewhere") as undone:
        rollback("test", reason="errors")
    assert ": BAD " in str(undone.value)
    assert "ROLLED BACK" not in str(undone.value)
    assert lab.serves() == ill
    assert len(lab.world.ledger.history()) == before + 1  # one operation: nothing was rolled back after it
    assert not {ill, good} & lab.world.ledger.releases.quarantined().keys()
    assert slack.messages == {}
    assert "serves again" in rollback("test", to=good[:10], reason="back again")
    assert lab.serves() == good
    assert ill not in lab.world.ledger.releases.quarantined()  # older than what replaced it
