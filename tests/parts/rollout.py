"""A scene on which releases can be driven: a real HAProxy, the counter, a git repository, processes, visitors.

Its bake is short, so that a test takes seconds; the evidence itself is tested by what it decides, in tests/decide.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from blocks.web import ask
from deployments.local.balancer import Balancer
from deployments.local.repository import Repository
from deployments.local.running import Running
from deployments.local.service import fill_empty
from flows.effect import without_prefect
from flows.records_release import Told
from flows.world import World
from tests.parts.scene import Scene

ROOT = Path(__file__).parents[2]
RELEASE = """
[environment]
required = ["DATABASE_URL"]
[release]
platform = "processes"
endpoints = ["/api/videos/trending", "/api/auth/status"]
version = "header x-release"
smoke = "python smoke.py"
commands = { test = "python -m unittest --quiet" }
command_limit = "30s"
start_limit = "20s"
drain_limit = "10s"
stable_after = "2s"
proven_backup = false
[release.migrations]
status = "python migrate.py status"
listing = "python migrate.py list"
up = "python migrate.py up"
[bake]
look = "1s"
minimum = "3s"
maximum = "5s"
minimum_baseline = 100
"""
BAKE = 'minimum = "3s"\nmaximum = "5s"'
SHORT = 'minimum = "1s"\nmaximum = "1s"'  # for when nobody visits: a longer one would prove nothing more


@dataclass(frozen=True)
class Rollout:
    """The scene, its repository and its balancer."""

    scene: Scene
    repository: Repository
    balancer: Balancer
    environ: Mapping[str, str]
    folder: Path

    @property
    def counter(self) -> Running:
        """The counter's process."""
        return Running(self.folder / "processes", "counter")

    def count(self) -> None:
        """Start the counter."""
        command = ["--port", str(self.balancer.log_port), "--file", self.environ["COUNTER_FILE"]]
        self.counter.start([sys.executable, "-m", "blocks.counting", *command], {})

    @property
    def world(self) -> World:
        """A new world, as a new process would have it."""
        return World(self.scene.world.stage, dict(self.environ))

    def toml(self, changed: str = "", instead: str = "") -> None:
        """Write the stage's TOML anew, with one text of [release] or [bake] changed."""
        assert changed in RELEASE
        self.scene.toml(more=RELEASE.replace(changed, instead) if changed else RELEASE)

    def short_bakes(self) -> None:
        """Write the stage's TOML anew, with bakes of a second."""
        self.toml(BAKE, SHORT)

    def also(self, changed: str, instead: str) -> None:
        """Change one more text of the TOML as it is now."""
        path = Scene.stages(self.environ) / f"{self.scene.name}.toml"
        text = path.read_text()
        assert changed in text
        path.write_text(text.replace(changed, instead))

    @property
    def newest(self) -> Told:
        """What is remembered of the newest release."""
        return self.world.ledger.releases.all()[-1]

    def serves(self) -> str:
        """The commit that answers at the balancer; empty: nothing does."""
        answer = ask(f"{self.balancer.url}/health")
        return answer.headers.get("x-release", "") if answer.healthy else ""

    def runs(self) -> dict[str, str]:
        """The commits that live, by slot."""
        return {name: slot.commit or "" for name, slot in self.world.platform.slots().items() if slot.alive}

    @contextmanager
    def visited(self, a_second: float = 40) -> Generator[Path]:
        """With visitors at the balancer; yields the file of what failed for them."""
        visitors = Running(self.folder / "processes", f"visitors-{time.monotonic_ns()}")
        command = ["-m", "deployments.local.visitors", "--url", self.balancer.url, "--a-second", str(a_second)]
        visitors.start([sys.executable, *command], self.environ)
        visitors.await_ready(lambda: "visiting" in visitors.log.read_text(), 20, "the visitors")
        try:
            yield visitors.log
        finally:
            visitors.stop()


@contextmanager
def rollout(scene: Scene, folder: Path) -> Generator[Rollout]:
    """Everything started, nothing deployed; flows run plainly, as in break glass. All of it is ended afterwards."""
    with started(scene, folder) as made, pytest.MonkeyPatch.context() as patch, without_prefect():
        for name, value in made.environ.items():
            patch.setenv(name, value)
        yield made


@contextmanager
def started(scene: Scene, folder: Path, **more: str) -> Generator[Rollout]:
    """The same for flows under Prefect; with these variables too. Declared commands find this Python as `python`."""
    folder.mkdir(parents=True, exist_ok=True)
    balancer = Balancer(folder / "balancer").start()
    file = folder / "counter.sqlite"
    repository = Repository(folder / "repository")
    repository.make()
    with scene.database.connect() as connection:
        connection.execute("drop table public.users")
    fill_empty(scene.database, megabytes=0.1)
    environ = {
        **scene.environ,
        "PROCESSES_FOLDER": str(folder / "releases"),
        "PROCESSES_REPOSITORY": str(repository.folder),
        "PROCESSES_PORTS": json.dumps(balancer.slots),
        "PROCESSES_START": shlex.join([sys.executable, "serve.py", "--port", "{port}"]),
        "HAPROXY_SOCKET": balancer.block.socket,
        "HAPROXY_URL": balancer.url,
        "COUNTER_FILE": str(file),
        "SERVICE_DATABASE_URL": scene.environ["DATABASE_URL"],
        **more,
    }
    made = Rollout(scene, repository, balancer, environ, folder)
    made.toml()
    made.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
        try:
            yield made
        finally:
            for slot in made.world.platform.slots():
                made.world.platform.stop(slot)
            made.counter.stop()
            balancer.stop()


def failures(log: Path) -> list[str]:
    """What failed for the visitors."""
    return [line for line in log.read_text().splitlines() if line.startswith("failed")]


def git(repository: Repository, *words: str) -> str:
    """A git command in the repository."""
    return subprocess.run(["git", *words], cwd=repository.folder, capture_output=True, text=True, check=True).stdout
