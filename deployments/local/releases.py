"""The demo's releases: a good one that nobody notices, and a bad one that evidence takes back, while people visit."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from blocks.errors import Unreachable
from blocks.web import ask
from deployments.local.repository import Repository
from deployments.local.running import Running
from deployments.local.stage import LocalStage
from flows.effect import NotDone
from flows.serving import serving, spans, spans_of
from flows.stage import Stage
from flows.world import World

ENOUGH = 1000  # requests of the version that serves: what a new one is compared with
PATIENCE_S = 180.0
LOOK_S = 1.0
FAULT = {"errors": 0.05, "errors_after": 50}  # checks before traffic cannot see it
Run = Callable[[str, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Releases:
    """Releases of the local stage, asked for by `run` as CI asks for them."""

    stage: LocalStage
    run: Run

    @property
    def world(self) -> World:
        """The stage as a flow sees it."""
        return World(Stage.named("local"), self.stage.environ)

    def await_baseline(self) -> int:
        """Wait until enough requests of what serves are counted; how many. Unreachable when they don't come."""
        deadline = time.monotonic() + PATIENCE_S
        while (counted := self._counted()) < ENOUGH:
            if time.monotonic() > deadline:
                raise Unreachable(f"only {counted} requests were counted in {PATIENCE_S:.0f} s: do visitors come?")
            time.sleep(LOOK_S)  # requests come when they come
        return counted

    def bring_good(self) -> str:
        """Deploy a good release; NotDone unless it stays and no visitor's request failed meanwhile."""
        commit, begun = self._repository.release("feat: shorter titles", {}), datetime.now(UTC)
        said = str(self.run("deploy/local", {"commit": commit}).state.message)
        self._insist_on(commit)
        if failed := self._failures(begun):
            raise NotDone(f"{len(failed)} requests failed while a good release went live: {failed[0]}")
        return f"{said} No visitor's request failed."

    def bring_bad(self) -> str:
        """Deploy a release that fails 5 % of its requests; NotDone unless evidence takes it back."""
        before = self._serves()
        commit = self._repository.release("feat: a fault in one answer of twenty", FAULT)
        try:
            said = str(self.run("deploy/local", {"commit": commit}).state.message)
        except NotDone as ended:
            if "ROLLED BACK" not in str(ended):
                raise
            self._insist_on(before)
            return str(ended).partition(": Failed: ")[2] or str(ended)
        raise NotDone(f"a release that fails 5 % of its requests was kept: {said}")

    @property
    def _repository(self) -> Repository:
        return Repository(self.stage.folder / "repository")

    def _serves(self) -> str:
        return ask(f"{self.stage.service}/health").version("header x-release")

    def _insist_on(self, commit: str) -> None:
        if (found := self._serves()) != commit:
            raise NotDone(f"{found} serves, and not {commit}")

    def _counted(self) -> int:
        releases, now = self.world.ledger.releases.all(), datetime.now(UTC)
        current = serving(releases, now)
        served = spans_of(current.commit, spans(releases, now)) if current else []
        return sum(
            minute.n  # of whole minutes, as a baseline counts them
            for span in served
            for minute in self.world.counter.minutes([span.release.slot], span.begins, span.ends)
        )

    def _failures(self, since: datetime) -> list[str]:
        """Lines of the visitors' log: `failed at TIME: WHAT`."""
        log = Running(self.stage.folder / "processes", "visitors").log.read_text()
        lines = [line for line in log.splitlines() if line.startswith("failed at ")]
        return [line for line in lines if datetime.fromisoformat(line.split()[2].rstrip(":")) >= since]


def tell(said: str) -> str:
    """A release's sentence, at the length of a terminal's line or two."""
    return said.partition(" Dependencies")[0]
