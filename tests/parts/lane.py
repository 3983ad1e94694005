"""A rollout made small: releases of the standard library alone, a bake of a second, visitors who note every answer.

Its releases write down each POST that they execute, so that one executed twice is seen. Many tries share a lane, one
after the other: each begins where the one before it left the service.
"""

import time
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.deploy import tasks
from flows.deploy.flow import deploy
from flows.deploy.plan import DeployPlan, plan_deploy
from flows.deploy.steps import roll_out
from flows.effect import NotDone
from flows.ledger import Ledger
from flows.rollback.flow import rollback
from flows.serving import serving
from flows.world import World
from tests.parts.rollout import Rollout, rollout
from tests.parts.scene import Scene
from tests.parts.visitors import Visitors, visiting

SERVE = """
import json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

RELEASE = os.environ["RELEASE"]
BAD = json.loads(Path(__file__).with_name("traits.json").read_text()).get("bad", False)
EXECUTED = os.open(os.environ["EXECUTED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = urlsplit(self.path)
        bad = BAD and asked.path == "/watch"
        if not bad:
            time.sleep(float(parse_qs(asked.query).get("s", ["0"])[0]))
        self.send_response(500 if bad else 200)
        self.send_header("x-release", RELEASE)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        os.write(EXECUTED, self.rfile.read(int(self.headers["Content-Length"])) + b"\\n")
        self.do_GET()

    def log_message(self, *what):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 256

server = Server(("127.0.0.1", int(sys.argv[2])), Answer)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.02)
server.server_close()
"""
RELEASE = """
[environment]
required = ["DATABASE_URL", "EXECUTED"]
[release]
platform = "processes"
endpoints = ["/api/status"]
version = "header x-release"
dependencies = []
start_limit = "20s"
drain_limit = "10s"
stable_after = "1s"
proven_backup = false
[release.migrations]
status = "python migrate.py status"
listing = "python migrate.py list"
up = "python migrate.py up"
[bake]
look = "1s"
minimum = "{minimum_s}s"
maximum = "60s"
policy = "accept"
profile = "fast"
"""


@dataclass(frozen=True)
class Lane:
    """A service that is released again and again, its three good commits, and one that answers 500."""

    rollout: Rollout
    environ: Mapping[str, str]
    good: tuple[str, ...]
    bad: str
    visitors: Visitors
    executed: Path

    @property
    def world(self) -> World:
        """A new world, as a new process would have it."""
        return World(self.rollout.world.stage, dict(self.environ))

    def bakes(self, minimum_s: int) -> None:
        """How long, from now on."""
        self.rollout.scene.toml(more=RELEASE.format(minimum_s=minimum_s))

    def next_good(self) -> str:
        """A good commit that lives in no slot."""
        return next(commit for commit in self.good if commit not in self.rollout.runs().values())

    def new_good(self) -> str:
        """A new commit that changes nothing: one that a rollback took back is in quarantine."""
        return self.rollout.repository.release("feat: small, once more", {})

    def plan(self, commit: str, *, spare: bool = True) -> DeployPlan:
        """A deploy of the commit; with `spare=False` the slot for it is free."""
        world = self.world
        shares = world.traffic.shares()
        for slot in () if spare else [slot for slot, share in shares.items() if not share]:
            world.platform.stop(slot)
        seen = tasks.look(world, commit)
        return plan_deploy(world.stage, seen, (), (), pending=False, backup="")

    def migration(self) -> str:
        """A new commit whose migration is pending."""
        repository = self.rollout.repository
        number = 1 + len(list((repository.folder / "migrations").glob("*.sql")))
        text = f"create table public.made_by_{number} (id bigint);\n"
        return repository.release("feat: a table", {}, {f"migrations/{number:04}_made.sql": text})

    def deploy(self, commit: str) -> None:
        """To its end, here."""
        plan = self.plan(commit)
        self.world.carry_out(roll_out, plan, key=plan.key)

    def fill(self) -> None:
        """Release the good commits, one after the other."""
        for commit in self.good:
            self.deploy(commit)

    def position(self) -> list[object]:
        """Where the world stands: weights, and each slot's commit and processes."""
        world = self.world
        slots = sorted((name, slot.commit, slot.pids) for name, slot in world.platform.slots().items())
        return [sorted(world.traffic.shares().items()), *map(list, slots)]

    def wrong(self, ledger: Ledger, commit: str) -> list[str]:
        """What is not as it must be when nothing is under way and the commit serves."""
        world, found = self.world, list[str]()
        shares, runs = world.traffic.shares(), self.rollout.runs()
        if sorted(shares.values()) != [0, 100] or runs.get(max(shares, key=lambda slot: shares[slot])) != commit:
            found.append(f"{commit} should have all of the traffic, it is {shares} and runs {runs}")
        if (answers := self.rollout.serves()) != commit:
            found.append(f"{commit} should answer, {answers or 'nothing'} does")
        told = serving(ledger.releases.all(), datetime.now(UTC))
        if told is None or told.commit != commit:
            found.append(f"the ledger says that {told and told.commit} serves")
        return found

    def wrong_for_visitors(self, bad: Collection[str], since: float = 0) -> list[str]:
        """Requests that failed, but for the 500 of a release that is bad on purpose; POSTs not executed just once."""
        found = [f"failed: {each}" for each in self.visitors.failed(bad, since)]
        posts = [each for each in self.visitors.answers(since) if each.method == "POST" and each.status]
        times = Counter(self.executed.read_text().split())  # read last: it holds all that was answered
        return found + [f"executed {times[each.number]} times: {each}" for each in posts if times[each.number] != 1]


@contextmanager
def open_lane(scene: Scene, folder: Path, *, clients: int = 2, pause_s: float = 0.1) -> Generator[Lane]:
    """A lane whose third release serves, the second one is kept; under visitors."""
    with empty_lane(scene, folder) as service:
        service.fill()
        with visited(service, folder, clients=clients, pause_s=pause_s) as made:
            yield made


@contextmanager
def empty_lane(scene: Scene, folder: Path) -> Generator[Lane]:
    """A lane that nothing was released to, without visitors."""
    executed = folder / "executed.txt"
    with rollout(scene, folder) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVICE_EXECUTED", str(executed))
        environ = {**made.environ, "SERVICE_EXECUTED": str(executed)}
        releases = [made.repository.release("feat: small", {}, {"serve.py": SERVE})]
        releases += [made.repository.release(f"feat: small, {number}", {}) for number in (2, 3)]
        bad = made.repository.release("feat: a fault", {"bad": True})
        made.repository.release("fix: the fault", {})
        scene.toml(more=RELEASE.format(minimum_s=1))
        yield Lane(made, environ, tuple(releases), bad, Visitors(executed), executed)


@contextmanager
def visited(service: Lane, folder: Path, *, clients: int = 2, pause_s: float = 0.1) -> Generator[Lane]:
    """The lane under visitors."""
    with visiting(service.rollout.balancer.ports["frontend"], folder, clients, pause_s) as visitors:
        yield replace(service, visitors=visitors)


def live_through(service: Lane) -> str:
    """A good release, a bad one that is taken back, a rollback, switches, and reloads between; the bad commit."""
    balancer = service.rollout.balancer
    deploy("test", service.new_good())
    balancer.reload()
    bad = service.rollout.repository.release("feat: another fault", {"bad": True})
    with pytest.raises(NotDone, match="ROLLED BACK"):
        deploy("test", bad)
    service.rollout.repository.release("fix: the other fault", {})
    balancer.reload()
    rollback("test", to=service.next_good(), reason="a test")  # a commit that served before, and is started again
    now = service.world.traffic.shares()
    for shares in [{name: 100 - share for name, share in now.items()}, now] * 3:
        service.world.traffic.shift(shares)
        time.sleep(0.5)
        balancer.reload()
    return bad
