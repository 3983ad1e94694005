"""The workflow file for the service's repository: when it runs, what it may, what it asks for, and what it exits with.

Its shell is run as GitHub runs it, against a `prefect` that prints what the real one prints.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.declared import declared
from flows.deploy.gates import OWN_CHECKS
from flows.stage import Stage
from tests.shape.house import ROOT

FILE = ROOT / "deployments" / "ci" / "deploy.yml"
STAGES = {"staging": "staging", "main": "production"}  # branch -> stage
COMMIT = "1a2b3c4d" * 5
RUN = "0e5b1c7a-9f2d-4c55-8a61-3d1f0b6c2e90"
KEPT = "v7 (1a2b3c4d): KEPT 60 s after go-live, healthy: errors 0 of 600 (0 %; the data allow 0-0.7 %)."
UNPROVEN = "v7 (1a2b3c4d): KEPT 60 min after go-live, inconclusive (policy extend): too few requests."
ROLLED_BACK = "v7 (1a2b3c4d): ROLLED BACK 40 s after go-live: errors 11 of 203. Now v6 (99887766) serves again."
HELD = "v7 (1a2b3c4d): HELD 60 min after go-live, inconclusive (policy hold): too few requests. A person decides."
ODD = """it declares none in [release], 5.4 % "quoted" 'so' $(touch planted) `touch planted` \\n <비디오> : 1 :smile:"""
# What Prefect 3.9.1 prints and answers, on standard output, where that is no terminal.
PREFECT = f"""#!/bin/sh
echo "$@" >> calls
case "$1 $2" in
"deployment run")
  if [ -e no_run ]; then echo "Deployment '$3' not found!"; exit 1; fi
  echo "Creating flow run for deployment '$3'..."
  echo "Created flow run 'fast-owl'."
  echo "└── UUID: {RUN}"
  echo "└── Parameters: {{'stage': 'production', 'commit': '{COMMIT}'}}"
  echo "12:00:01.123 | INFO    | Flow run 'fast-owl' - UUID: of something else"
  exit "$(cat watch_code)" ;;
"flow-run watch") exit "$(cat second_watch_code)" ;;
"api GET") cat state.json 2>/dev/null || exit 7 ;;
*) exit 64 ;;
esac
"""


def workflow() -> dict[Any, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def job(name: str) -> dict[str, Any]:
    return workflow()["jobs"][name]


def stage_of(branch: str) -> str:
    """What the one expression of the matrix gives for a push to this branch."""
    (expression,) = job("deploy")["strategy"]["matrix"]["stage"]
    found = re.fullmatch(r"\$\{\{ github\.ref_name == '(\w+)' && '(\w+)' \|\| '(\w+)' \}\}", expression)
    assert found, f"{expression}: this test reads only A == 'x' && 'y' || 'z'"
    return found[2] if branch == found[1] else found[3]


# When it runs, and what it may


def test_pull_requests_and_the_two_branches_start_it() -> None:
    triggers = workflow()[True]  # YAML's word `on`
    assert triggers == {"pull_request": None, "push": {"branches": list(STAGES)}}


def test_it_builds_tests_lints_and_audits_for_everybody() -> None:
    checks = job("check")
    told = {one["name"]: one["command"] for one in checks["strategy"]["matrix"]["include"]}
    assert told == {
        "build": "npm run build",
        "test": "npm test",
        "lint": "npm run lint",
        "audit": "npm audit --omit=dev --audit-level=high",
    }
    assert "if" not in checks
    assert [step.get("run") for step in checks["steps"]][-2:] == ["npm ci", "${{ matrix.command }}"]


def test_only_a_push_whose_checks_passed_is_deployed() -> None:
    assert (job("deploy")["needs"], job("deploy")["if"]) == ("check", "github.event_name == 'push'")
    assert list(workflow()["jobs"]) == ["check", "deploy"]


@pytest.mark.parametrize(("branch", "stage"), STAGES.items())
def test_a_branch_is_deployed_to_its_stage(branch: str, stage: str) -> None:
    assert stage_of(branch) == stage
    assert job("deploy")["env"]["STAGE"] == job("deploy")["environment"] == "${{ matrix.stage }}"


def test_one_deploy_of_a_stage_runs_at_a_time_and_none_is_cancelled() -> None:
    assert job("deploy")["concurrency"] == {"group": "deploy-${{ matrix.stage }}", "cancel-in-progress": False}


def test_the_gate_that_asks_ci_leaves_out_the_deploys_by_the_names_they_have_here() -> None:
    name = job("deploy")["name"]
    assert {name.replace("${{ matrix.stage }}", stage_of(branch)) for branch in STAGES} == set(OWN_CHECKS)


def test_its_token_reads_the_code_and_the_deploy_not_even_that() -> None:
    assert workflow()["permissions"] == {"contents": "read"}
    assert job("deploy")["permissions"] == {}
    assert "permissions" not in job("check")


def test_only_the_deploy_sees_secrets() -> None:
    assert set(re.findall(r"secrets\.(\w+)", str(job("deploy")))) == {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"}
    assert "secrets" not in str(job("check"))


def test_no_text_of_others_is_put_into_a_shell() -> None:
    scripts = [step["run"] for one in workflow()["jobs"].values() for step in one["steps"] if "run" in step]
    assert [script for script in scripts if "${{" in script] == ["${{ matrix.command }}"]
    assert workflow()["defaults"] == {"run": {"shell": "bash"}}


def test_every_action_is_github_s_own_and_pinned_by_its_major() -> None:
    used = re.findall(r"uses: (\S+)", FILE.read_text(encoding="utf-8"))
    assert used
    assert [each for each in used if not re.fullmatch(r"actions/[\w-]+@v\d+", each)] == []


# What it asks for


def test_it_asks_with_the_prefect_that_the_server_has() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    installed = re.findall(r"pip install .*(prefect==\S+)", FILE.read_text(encoding="utf-8"))
    assert installed == [each for each in wanted if each.startswith("prefect==")]


def test_it_never_starts_a_server_of_its_own_and_cuts_no_line() -> None:
    environ = job("deploy")["env"]
    assert (environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"], environ["COLUMNS"]) == ("false", "300")


@pytest.mark.parametrize(("branch", "stage"), STAGES.items())
def test_every_deployment_that_it_runs_is_declared_and_takes_its_parameters(branch: str, stage: str) -> None:
    known = {one.full_name: one for one in declared()}
    asked = re.findall(r"prefect deployment run ([^|\n]*)", FILE.read_text(encoding="utf-8"))
    assert asked
    for command in asked:
        name, *words = shlex.split(command)
        one = known[name.replace("$STAGE", stage_of(branch))]
        given = {words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "--param"}
        assert (one.name, "--watch" in words) == (stage, True)
        assert given <= set(one.schema["properties"])


@pytest.mark.parametrize("stage", STAGES.values())
def test_it_watches_longer_than_the_longest_bake(stage: str) -> None:
    rules = Stage.named(stage)
    longest = rules.bake.maximum + rules.release.start_limit + rules.release.command_limit * 2
    assert timedelta(minutes=job("deploy")["timeout-minutes"]) > longest + timedelta(minutes=30)  # of a backup


# What it exits with


@dataclass(frozen=True)
class Ended:
    """How the job ended, as GitHub tells it."""

    code: int
    lines: list[str]
    calls: list[str]

    @property
    def annotations(self) -> list[str]:
        return [line for line in self.lines if line.startswith("::")]


def ran(folder: Path, kind: str, message: str | None, *, watched: int = 0, again: int = 0) -> Ended:
    """The job's own steps, with a run that ended so."""
    state = {"type": kind, "name": kind.capitalize(), "message": message}
    (folder / "state.json").write_text(json.dumps({"id": RUN, "state": state, "tags": ["deploy"]}))
    return ran_against(folder, {"watch_code": str(watched), "second_watch_code": str(again)})


def ran_against(folder: Path, files: Mapping[str, str]) -> Ended:
    if not shutil.which("jq"):
        pytest.skip("jq is not installed (Debian: apt-get install jq): GitHub's machines have it")
    (folder / "bin").mkdir()
    (folder / "bin" / "prefect").write_text(PREFECT)
    (folder / "bin" / "prefect").chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
    code, lines = 0, list[str]()
    for step in [each for each in job("deploy")["steps"] if "prefect " in each.get("run", "")]:
        done = one_step(folder, step["run"])
        lines += (done.stdout + done.stderr).splitlines()
        code = code or (0 if step.get("continue-on-error") else done.returncode)
    calls = folder / "calls"
    return Ended(code, lines, calls.read_text().splitlines() if calls.exists() else [])


def one_step(folder: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """As GitHub's runner does it with `shell: bash`."""
    (folder / "step.sh").write_text(script)
    environ = {"PATH": f"{folder / 'bin'}:{os.defpath}", "STAGE": "production", "GITHUB_SHA": COMMIT}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "step.sh"],
        cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_release_that_stays_ends_well_with_its_sentence_last(tmp_path: Path) -> None:
    ended = ran(tmp_path, "COMPLETED", KEPT)
    assert (ended.code, ended.lines[-1]) == (0, KEPT)
    assert ended.annotations == [f"::notice title=deploy to production::{KEPT}"]
    assert ended.calls == [
        f"deployment run deploy/production --param commit={COMMIT} --watch",
        f"flow-run watch {RUN}",
        f"api GET /flow_runs/{RUN}",
    ]


def test_a_release_kept_by_policy_ends_well_with_a_warning(tmp_path: Path) -> None:
    ended = ran(tmp_path, "COMPLETED", UNPROVEN)
    assert (ended.code, ended.lines[-1]) == (0, UNPROVEN)
    assert ended.annotations == [f"::warning title=deploy to production::{UNPROVEN}"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("FAILED", ROLLED_BACK),
        ("FAILED", HELD),
        ("FAILED", "v7 (1a2b3c4d) was not deployed: branch: 1a2b3c4d is not reachable from main"),
        ("CRASHED", "Flow run process exited with non-zero status code -9."),
        ("CANCELLED", "cancelled by a person"),
    ],
)
def test_a_release_that_did_not_stay_fails_with_its_sentence_last(tmp_path: Path, kind: str, message: str) -> None:
    ended = ran(tmp_path, kind, message, watched=1, again=1)
    assert (ended.code, ended.lines[-1]) == (1, message)
    assert ended.annotations == [f"::error title=deploy to production::{message}"]


def test_a_run_that_says_nothing_fails_and_is_named(tmp_path: Path) -> None:
    ended = ran(tmp_path, "CANCELLED", None, watched=1, again=1)
    assert (ended.code, ended.lines[-1]) == (1, "the run is Cancelled, and nobody said why")


def test_a_watch_that_broke_off_does_not_fail_a_release_that_stays(tmp_path: Path) -> None:
    ended = ran(tmp_path, "COMPLETED", KEPT, watched=1)
    assert (ended.code, ended.lines[-1]) == (0, KEPT)


def test_a_release_still_under_way_when_nobody_can_watch_it_has_not_stayed_yet(tmp_path: Path) -> None:
    ended = ran(tmp_path, "RUNNING", None, watched=1, again=1)
    assert (ended.code, ended.lines[-1]) == (1, "the run is Running, and nobody said why")


def test_a_deploy_that_was_never_begun_fails_and_says_so(tmp_path: Path) -> None:
    ended = ran_against(tmp_path, {"no_run": ""})
    assert ended.code == 1
    assert ended.lines == [
        "Deployment 'deploy/production' not found!",
        "nothing was deployed: Prefect made no run, the step above says why",
    ]


def test_a_server_that_went_away_leaves_the_end_unknown(tmp_path: Path) -> None:
    ended = ran_against(tmp_path, {"watch_code": "1", "second_watch_code": "1"})
    assert ended.code == 1
    assert ended.lines[-1] == f"what became of run {RUN} is unknown: Prefect does not answer, and the deploy goes on"


def test_a_sentence_is_printed_as_it_is_and_never_run(tmp_path: Path) -> None:
    ended = ran(tmp_path, "FAILED", ODD, watched=1, again=1)
    assert (ended.code, ended.lines[-1]) == (1, ODD)
    assert not (tmp_path / "planted").exists()


def test_of_a_message_of_many_lines_the_mark_holds_the_first(tmp_path: Path) -> None:
    ended = ran(tmp_path, "FAILED", "not done\nTraceback\nthe last line", watched=1, again=1)
    assert ended.annotations == ["::error title=deploy to production::not done"]
    assert ended.lines[-3:] == ["not done", "Traceback", "the last line"]
