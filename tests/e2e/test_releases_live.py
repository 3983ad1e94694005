"""Releases of the local stage, asked for as CI asks: `prefect deployment run ... --watch`, through server and worker.

One stage, one story, in the order that takes the least time: what is taken back first, while the first release serves,
then what stays. Each test waits for what it needs, so that each can be run alone.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from blocks.counter import Served
from blocks.histogram import EDGES
from deployments.local.repository import Repository
from deployments.local.running import Running
from deployments.local.stage import ROOT, LocalStage, down, up
from flows.records_release import Release, Told
from flows.serving import serving, spans, spans_of
from flows.stage import STAGES, Stage
from flows.world import World
from tests.parts.processes import eventually

FAST, SLOWLY, STEADY = 200, 5, 40  # requests a second
TOML = STAGES / "local.toml"
WORKFLOW = ROOT / "deployments" / "ci" / "deploy.yml"
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Ended:
    """A run as its asker saw it: the command's exit code, and what the server says of the run."""

    code: int
    state: str
    said: str
    run: str


@dataclass(frozen=True)
class Asked:
    """A command under way that asked for a run and watches it."""

    live: "Live"
    process: "subprocess.Popen[str]"

    def ended(self) -> Ended:
        """Wait for it."""
        output, errors = self.process.communicate(timeout=300)
        found = re.search(r"UUID: (\S+)", output)
        assert found, f"no run was made: {output} {errors}"
        state = self.live.api("GET", f"flow_runs/{found[1]}")["state"]
        return Ended(self.process.returncode, state["name"], str(state["message"]), found[1])


class Live:
    """The stage with its visitors, and what the tests ask of both."""

    def __init__(self, stage: LocalStage) -> None:
        self.stage = stage
        self.repository = Repository(stage.folder / "repository")
        self.visitors = Running(stage.folder / "processes", "visitors")

    @property
    def world(self) -> World:
        """As a flow sees it."""
        return World(Stage.named("local"), self.stage.environ)

    def ask(self, flow: str, **parameters: str) -> Asked:
        """Begin what a person or CI types."""
        given = [word for name, value in parameters.items() for word in ("--param", f"{name}={value}")]
        return Asked(self, self._popen(["prefect", "deployment", "run", f"{flow}/local", *given, "--watch"]))

    def deploy(self, commit: str) -> Asked:
        """Ask for it, with the backup of the first release: it is young enough, and taking one takes time."""
        return self.ask("deploy", commit=commit, backup=self.world.ledger.backups()[0].id)

    def deploy_as_ci(self, commit: str, folder: Path) -> tuple[int, str]:
        """The two steps of the workflow file, as GitHub runs them: the job's exit code, and its last line."""
        steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["deploy"]["steps"]
        asks, tells = [step["run"] for step in steps if "prefect " in step.get("run", "")][-2:]
        more = {"STAGE": "local", "GITHUB_SHA": commit}
        self._popen(["bash", "-eo", "pipefail", "-c", asks], folder, more).communicate(timeout=300)
        job = self._popen(["bash", "-eo", "pipefail", "-c", tells], folder, more)
        output, _ = job.communicate(timeout=300)
        return job.returncode, output.strip().splitlines()[-1]

    def api(self, method: str, path: str, content: Any = None) -> Any:
        """What Prefect's API answers."""
        answer = httpx.request(method, f"{self.stage.ui}/api/{path}", json=content, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def cancel(self, name: "re.Pattern[str]") -> None:
        """Cancel the run that is so called, as the UI does."""
        runs = self.api("POST", "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
        (run,) = [run["id"] for run in runs if name.match(run["name"])]
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.api("POST", f"flow_runs/{run}/set_state", {"state": state})

    def serves(self) -> str:
        """The commit that visitors get."""
        return httpx.get(f"{self.stage.service}/health", timeout=10).headers["x-release"]

    def visit(self, a_second: float) -> None:
        """From now on at this rate."""
        self.visitors.stop()
        command = ["-m", "deployments.local.visitors", "--url", self.stage.service, "--a-second", str(a_second)]
        self.visitors.start([sys.executable, *command], self.stage.environ)
        self.visitors.await_ready(lambda: "visiting" in self.visitors.log.read_text(), 30, "the visitors")

    def failed(self) -> list[str]:
        """What failed for those who came since the rate was set."""
        return [line for line in self.visitors.log.read_text().splitlines() if line.startswith("failed")]

    def told(self, commit: str) -> Told:
        """What is remembered of the newest release of a commit."""
        return [each for each in self.world.ledger.releases.all() if each.release.commit == commit][-1]

    def is_baking(self, commit: str) -> bool:
        """Whether it has the traffic, and no verdict yet."""
        found = [each for each in self.world.ledger.releases.all() if each.release.commit == commit]
        return bool(found and found[-1].live_at and found[-1].open)

    def minutes(self) -> list[Served]:
        """Whole minutes of what serves: the baseline of the next one."""
        releases, now = self.world.ledger.releases.all(), datetime.now(UTC)
        current = serving(releases, now)
        served = spans_of(current.commit, spans(releases, now)) if current else []
        return [
            minute
            for span in served
            for minute in self.world.counter.minutes([span.release.slot], span.begins, span.ends)
        ]

    def counted(self, release: Release) -> int:
        """Visitors' requests that its slot got from its beginning until shortly before now."""
        return counted(self.world.counter.seconds([release.slot], release.at, datetime.now(UTC) - timedelta(seconds=5)))

    def await_first(self) -> None:
        """Until the first release is kept, and its backup proven."""
        eventually(lambda: not self.world.ledger.open() and self.world.ledger.proofs(), 240)

    def await_baseline(self, requests: int, a_second: float = STEADY) -> None:
        """Until so many were counted; at this rate where they are not yet."""
        if counted(self.minutes()) < requests:
            self.visit(a_second)
            eventually(lambda: counted(self.minutes()) >= requests, 240)

    def _popen(
        self, words: Sequence[str], folder: Path = ROOT, more: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        environ = {**self.stage.environ, "COLUMNS": "300", **(more or {})}
        return subprocess.Popen(
            words, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def counted(minutes: Sequence[Served]) -> int:
    return sum(minute.n for minute in minutes)


def p95(minutes: Sequence[Served]) -> float:
    """The upper edge of its bucket, in seconds."""
    buckets = [sum(counts) for counts in zip(*(minute.hist for minute in minutes), strict=True)]
    place = next(i for i, below in enumerate(accumulate(buckets)) if below >= 0.95 * sum(buckets))
    return EDGES[place]


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The stage's TOML as the worker's runs read it: what is written there is the next run's."""
    file = tmp_path_factory.mktemp("stages") / "local.toml"
    file.write_text(TOML.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPKEEPER_STAGES", str(file.parent))
        yield file


@pytest.fixture(scope="module")
def live(toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    folder = tmp_path_factory.mktemp("live")
    try:
        live = Live(up(folder))
        live.visit(STEADY)
        live.await_first()
        yield live
    finally:
        down(folder)


@pytest.fixture
def long_enough_for_latency(toml: Path) -> Generator[None]:
    """A bake of at least 90 s: no answer time of the first 60 s is looked at, as a new release warms up."""
    text = TOML.read_text()
    assert 'minimum = "30s"' in text
    toml.write_text(text.replace('minimum = "30s"', 'minimum = "90s"'))
    yield
    toml.write_text(text)


def test_one_that_fails_its_smoke_tests_never_gets_traffic(live: Live) -> None:
    before = live.serves()
    empty = live.repository.release("feat: an empty list", {"empty": True})

    ended = live.deploy(empty).ended()

    assert (ended.code, ended.state) == (1, "Failed")
    assert re.fullmatch(
        r"v\d+ \(\w{8}\) gets no traffic: its smoke tests failed: the trending list is empty", ended.said
    )
    assert live.serves() == before
    told = live.told(empty)
    assert (told.live_at, told.state) == (None, "undone")
    assert live.counted(told.release) == 0
    assert live.failed() == []


@pytest.mark.parametrize(
    ("rate", "share", "times"),
    [
        pytest.param(STEADY, 0.5, 4, id="much"),
        pytest.param(
            *(FAST, 0.1, 2),
            id="little",
            marks=pytest.mark.skipif(
                not os.environ.get("SLOW_RELEASE"), reason="elsewhere: 200 requests a second, by `make bench`"
            ),
        ),
    ],
)
@pytest.mark.usefixtures("long_enough_for_latency")
def test_a_slow_one_is_taken_back_by_its_answer_times(live: Live, rate: int, share: float, times: float) -> None:
    """A share of its answers takes so many times the usual p95."""
    live.visit(rate)
    live.await_baseline(15 * rate, rate)
    before, usual = live.serves(), p95(live.minutes())
    assert live.minutes()[-1].n > 15 * rate, f"this machine is too busy for {rate} requests a second"
    slow = live.repository.release("feat: a slow list", {"slow": share, "slow_s": times * usual})

    ended = live.deploy(slow).ended()

    assert (ended.code, ended.state) == (1, "Failed")
    assert re.search(r": ROLLED BACK .* after go-live: slower than the stable version's p95 \d+ of \d+", ended.said)
    assert "serves again" in ended.said
    assert live.serves() == before
    assert live.failed() == []


def test_one_that_fails_5_percent_is_taken_back_by_evidence_and_ci_says_so(live: Live, tmp_path: Path) -> None:
    live.await_baseline(1000)
    live.visit(SLOWLY)
    before = live.serves()
    faulty = live.repository.release("feat: a fault in one of twenty", {"errors": 0.05, "errors_after": 12})

    code, last_line = live.deploy_as_ci(faulty, tmp_path)

    assert code == 1
    counts = r"errors \d+ of \d+ \([\d.]+ %; the data allow [\d.]+-[\d.]+ %\)"
    assert re.match(rf"v\d+ \({faulty[:8]}\): ROLLED BACK .* after go-live: {counts}\. Stable version: ", last_line)
    assert re.search(rf"Now v\d+ \({before[:8]}\) serves again", last_line)
    assert live.serves() == before
    assert [line for line in live.failed() if "answered 500" not in line] == []  # none by a switch


def test_one_that_dies_in_its_bake_is_seen_and_taken_back(live: Live) -> None:
    before = live.serves()
    mortal = live.repository.release("feat: a leak", {"dies_after": 40})

    ended = live.deploy(mortal).ended()

    assert (ended.code, ended.state) == (1, "Failed")
    assert "ROLLED BACK" in ended.said
    assert live.serves() == before
    assert live.told(mortal).live_at
    assert mortal not in {slot.commit for slot in live.world.platform.slots().values() if slot.alive}


def test_of_two_good_ones_asked_for_at_once_one_goes_live_unnoticed_and_the_other_says_why(live: Live) -> None:
    live.visit(STEADY)
    commits = [live.repository.release(f"feat: titles, take {take}", {}) for take in (1, 2)]

    asked = [live.deploy(commit) for commit in commits]
    ended = dict(zip(commits, [each.ended() for each in asked], strict=True))

    (kept,) = [commit for commit in commits if ended[commit].code == 0]
    (refused,) = [commit for commit in commits if ended[commit].code == 1]
    assert re.search(rf"\({kept[:8]}\): KEPT .* after go-live, healthy: errors 0 of \d+", ended[kept].said)
    assert re.match(rf"local/release is held by deploy {kept} 1 of run .* wait", ended[refused].said)
    assert (ended[kept].state, ended[refused].state) == ("Completed", "Failed")
    assert live.serves() == kept
    assert live.failed() == []


def test_a_cancel_in_its_bake_undoes_it_with_a_reason_in_words(live: Live) -> None:
    live.visit(STEADY)
    before, wanted = live.serves(), live.repository.release("feat: something nobody wants any more", {})
    asked = live.deploy(wanted)
    eventually(lambda: live.is_baking(wanted), 90)
    live.cancel(re.compile(f"^deploy v\\d+ \\({wanted[:8]}"))
    ended = asked.ended()

    assert (ended.code, ended.state) == (1, "Cancelled")
    eventually(lambda: not live.told(wanted).open, 30)
    told = live.told(wanted)
    assert (told.state, live.serves()) == ("undone", before)
    assert told.why.startswith("cancelled")
    assert live.failed() == []


def test_a_person_rolls_back_to_a_release_of_their_choice_and_is_told_that_it_helped(live: Live) -> None:
    live.visit(STEADY)
    first = live.world.ledger.releases.all()[0].release.commit
    assert live.serves() != first

    ended = live.ask("rollback", to=first[:10], reason="search is empty").ended()

    assert (ended.code, ended.state) == (0, "Completed")
    assert re.match(
        rf"v1 \({first[:8]}\) serves again \(version {first[:8]}, health 200, .*\); it helped: KEPT", ended.said
    )
    assert live.serves() == first
    assert live.failed() == []


def test_history_is_a_table_of_what_became_of_each(live: Live) -> None:
    ended = live.ask("history").ended()
    assert (ended.code, ended.state) == (0, "Completed")
    (table,) = live.api("POST", "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [ended.run]}}})
    rows = json.loads(table["data"])
    assert table["type"] == "table"
    assert table["description"] == f"{len(rows)} releases of local"
    assert [row["release"] for row in rows] == [
        each.release.name for each in reversed(live.world.ledger.releases.all())
    ]
    assert [row["state"] for row in rows].count("live") == 1
