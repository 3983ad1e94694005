"""Break glass prints the plan's steps, and each step when it runs: nobody at the terminal wonders what goes on."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.backup.flow import backup
from flows.catalogue.flow import catalogue
from tests.parts.scene import Scene

ROOT = Path(__file__).parents[2]
DAY = timedelta(days=1)


def said(*words: str) -> tuple[str, dict[str, Any]]:
    """What `python -m deployments run` tells on standard error, and the JSON object of its outcome."""
    command = [sys.executable, "-m", "deployments", "run", *words, "--stage", "test", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, json.loads(done.stdout)


def operation(stage: Scene, kind: str) -> int:
    """The last operation of a kind."""
    return next(each.id for each in stage.world.ledger.history(20) if each.kind == kind)


def planned_steps(told: str) -> list[str]:
    return re.findall(r"^\d\. (.*)$", told, re.MULTILINE)


def run_steps(told: str) -> list[str]:
    return re.findall(r"^step: (.*)$", told, re.MULTILINE)


@pytest.fixture(scope="module")
def source(stage: Scene) -> str:
    backup("test", "daily")
    return stage.bucket.backups[0].id


def test_a_backup_names_its_steps_in_the_plan_and_its_operation_at_the_end(stage: Scene) -> None:
    told, outcome = said("backup", "--param", "kind=weekly")

    assert planned_steps(told) == [
        f"dump {stage.database.database}",
        "commit its signed manifest",
        "ask for its proof, or say how to, where the policy wants one: every",
    ]
    assert run_steps(told) == [f"commit {taken}" for taken in outcome["backups"][:1]]
    assert outcome["operation"] == operation(stage, "commit backup")


def test_a_prune_names_its_steps_in_the_plan_and_as_they_run(stage: Scene, source: str) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    stage.again(source, now - 400 * DAY, verdict="proven")
    old = stage.again(source, now - 390 * DAY, kind="on-demand")
    for minutes in (20, 10):
        stage.again(source, now - timedelta(minutes=minutes), kind="on-demand")
    catalogue("test", rebuild=True)

    told, outcome = said("prune")

    (row,) = [each for each in told.split("\n\n") if each.startswith(f"{old}\n")]
    assert f"\n  steps: hide {old}, delete {old}\n" in f"{row}\n"
    assert told.count("  steps: hide ") == 1
    assert run_steps(told) == [f"hide {old}", f"delete {old}"]
    assert outcome["operation"] == operation(stage, "prune")


def test_a_restore_and_its_swap_name_their_steps_in_the_plan_and_as_they_run(stage: Scene, source: str) -> None:
    name = stage.database.database
    told, outcome = said("restore", "--param", f"which={source}", "--param", f"swap={name}", "--yes", "anna")

    planned, ran = planned_steps(told), run_steps(told)
    assert [step.split()[0] for step in ran] == ["create", "mark", "rename", "close"]
    assert [step for step in planned if step in ran] == ran
    assert f"load and compare {source}" in planned
    assert f"ask who approves that {name} is swapped out" in planned
    assert outcome["operation"] == operation(stage, "restore")
