"""Deploy, its undo, migrate and rollback killed and stopped at each of their points; visitors must not notice.

As in test_kill_matrix: plain processes in break glass with a ledger, points from the lists themselves. Some lanes, each
a real balancer, counter and processes; each try begins where the one before it left the lane's service.
"""

import contextlib
import os
import queue
import secrets
import signal
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from blocks.postgres.cluster import Cluster
from deployments.local.objectstore import ObjectStore
from flows.deploy.steps import MigrationPlan
from flows.effect import without_prefect
from flows.ledger import Ledger
from flows.records import Plan
from flows.rollback.tasks import make_plan
from tests.parts.killing import AT_ONCE, Arguments, Book, Matrix, settled
from tests.parts.lane import Lane, empty_lane, visited
from tests.parts.nursery import Child, Nursery
from tests.parts.processes import eventually
from tests.parts.scene import scene
from tests.parts.store import s3_place

pytestmark = pytest.mark.timeout(900)
LEASE_S = 3.0
PROMISED_S = LEASE_S + 15


@dataclass(frozen=True)
class Try:
    """What one try said of itself, by its key."""

    lane: Lane
    plan: Plan
    before: str  # the commit that served
    began: float = field(default_factory=time.time)
    wrong: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Releases(Matrix):
    """A matrix over lanes: `planned` gives a lane's next plan, and names of this try to be replaced in the points."""

    kind: str = "deploy"
    planned: Callable[[Lane], Plan] = lambda _: Plan()
    lanes: "queue.Queue[Lane]" = field(default_factory=queue.Queue["Lane"])
    tries: dict[str, Try] = field(default_factory=dict[str, Try])
    seconds: list[float] = field(default_factory=list[float])  # from each death to its settling

    def points(self) -> list[str]:
        with self._lane() as lane:
            found = Matrix.points(replace(self, fresh=partial(self._made, lane)))
            plan = self._tries_of(lane)[-1].plan
            names = {str(getattr(plan, name, "")): f"{{{name}}}" for name in ("slot", "left_slot")}
            names[lane.rollout.scene.database.database] = "{database}"
        for name, place in ((name, place) for name, place in names.items() if name):
            found = [point.replace(name, place) for point in found]
        return found

    def complain(self, point: str, fault: Any, tries: int = 2) -> list[str]:
        with self._lane() as lane:
            began = time.time()
            found = Matrix.complain(replace(self, fresh=partial(self._made, lane)), point, fault, tries)
            last = lane.world.ledger.releases.all()[-1]
            if last.state != "done" or not last.release.key.endswith("-next"):
                found.append(f"the next deploy was {last.state}: {last.why}")
            time.sleep(0.3)  # the slowest visitor's answer
            said = [text for made in self._tries_of(lane) if made.began >= began for text in made.wrong]
            said += lane.wrong(lane.world.ledger, last.release.commit)
            said += lane.wrong_for_visitors([lane.bad], began)
        return found + [f"{point} {fault}: {each}" for each in said]

    def _tries_of(self, lane: Lane) -> list[Try]:
        return [made for made in list(self.tries.values()) if made.lane is lane]

    @contextlib.contextmanager
    def _lane(self) -> Generator[Lane]:
        lane = self.lanes.get()
        try:
            yield lane
        finally:
            self.lanes.put(lane)

    def _made(self, lane: Lane, label: str) -> Arguments:
        before, plan, key = lane.rollout.serves(), self.planned(lane), f"{label} {secrets.token_hex(4)}"
        self.tries[key] = Try(lane, plan, before)
        return arguments_of(lane, self.kind, plan, key)

    def _settle(self, book: Book) -> bool:
        began, made = time.monotonic(), self.tries[book.key]
        if not settled(book, self.patience_s):
            made.wrong.append(f"trouble: {book.operation()['trouble']}")
            return False
        self.seconds.append(time.monotonic() - began)
        if self.seconds[-1] > PROMISED_S:
            made.wrong.append(f"settled {self.seconds[-1]:.1f} s after the death")
        moved = self.kind != "migrate" and book.operation()["state"] == "done"
        wanted = str(getattr(made.plan, "commit", "")) if moved else made.before
        made.wrong.extend(made.lane.wrong(book.ledger, wanted))
        return True

    def _start(self, arguments: Arguments, point: str = "", fault: str = "") -> Child:
        environ = {"FAULT_AT": point.format(**arguments["plan"]), "FAULT": fault}
        return self.nursery.start(self.run, arguments, environ)


def arguments_of(lane: Lane, kind: str, plan: Plan, key: str) -> Arguments:
    path = os.environ["PATH"]
    environ = {**lane.environ, "PATH": path}
    return {"kind": kind, "plan": plan.model_dump(mode="json"), "environ": environ, "stage": "test", "key": key}


@pytest.fixture(scope="module")
def lanes(
    postgres17: Cluster, weed: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Generator[dict[str, Lane]]:
    """By the database of the lane's ledger."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(without_prefect())
        folders = [tmp_path_factory.mktemp("lane") for _ in range(AT_ONCE)]
        scenes = [stack.enter_context(scene(postgres17, s3_place(weed), folder / "scene")) for folder in folders]
        empty = [stack.enter_context(empty_lane(*each)) for each in zip(scenes, folders, strict=True)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(Lane.fill, empty))
        made = [stack.enter_context(visited(*each)) for each in zip(empty, folders, strict=True)]
        yield {lane.environ["LEDGER_URL"]: lane for lane in made}


@pytest.fixture(scope="module")
def nursery(lanes: dict[str, Lane]) -> Generator[Nursery]:
    with Nursery("tests.parts.rescue") as made:
        yield made


@pytest.fixture
def matrix(lanes: dict[str, Lane], nursery: Nursery) -> Callable[..., Releases]:
    """Makes matrices; after each death and each migration the next deploy is a good one."""

    def world_of(arguments: Arguments) -> Lane:
        return lanes[arguments["environ"]["LEDGER_URL"]]

    def ledger_of(arguments: Arguments) -> Ledger:
        return world_of(arguments).world.ledger

    def following(arguments: Arguments) -> Arguments:
        lane = world_of(arguments)
        return arguments_of(lane, "deploy", lane.plan(lane.next_good()), f"{arguments['key']}-next")

    def fingerprint(arguments: Arguments) -> Any:
        return world_of(arguments).position()

    def made(kind: str, planned: Callable[[Lane], Plan], minimum_s: int = 1) -> Releases:
        free: queue.Queue[Lane] = queue.Queue()
        for lane in lanes.values():
            lane.bakes(minimum_s)
            free.put(lane)
        return Releases(
            "tests.parts.rescue:run", lambda _: {}, ledger_of, nursery, following, fingerprint, kind=kind,
            planned=planned, lanes=free,
        )  # fmt: skip

    return made


def check(killed: Releases, at_least: int, points: list[str] | None = None) -> None:
    points = points or killed.points()
    assert len(points) >= at_least
    complaints = killed.complaints(points)
    slowest = max(killed.seconds)
    print(f"{killed.kind}: {len(killed.seconds)} tries, {len(complaints)} wrong, settled in {slowest:.1f} s at most")  # noqa: T201
    assert not complaints


# ---- the lists


def test_a_deploy_may_die_anywhere(matrix: Callable[..., Releases]) -> None:
    def planned(lane: Lane) -> Plan:
        return lane.plan(lane.next_good())

    check(matrix("deploy", planned), 11)


def test_a_deploy_that_is_taken_back_may_die_anywhere(matrix: Callable[..., Releases]) -> None:
    """Undone by evidence, or by whoever finds it half undone."""

    def planned(lane: Lane) -> Plan:
        return lane.plan(lane.bad, spare=False)

    check(matrix("deploy", planned, minimum_s=2), 13)


def test_a_rollback_may_die_anywhere(matrix: Callable[..., Releases]) -> None:
    """Back to the release whose process is kept."""

    def planned(lane: Lane) -> Plan:
        kept = next(commit for commit in lane.rollout.runs().values() if commit != lane.rollout.serves())
        return make_plan(lane.world, kept, "a test")

    check(matrix("rollback", planned), 8)


def test_what_a_deploy_displaces_comes_back(matrix: Callable[..., Releases]) -> None:
    """The kept release, whose slot is freed for one that is bad."""

    def planned(lane: Lane) -> Plan:
        return lane.plan(lane.bad)

    killed = matrix("deploy", planned, minimum_s=2)
    check(killed, 3, [point for point in killed.points() if "free" in point])


def test_a_rollback_that_builds_its_target_again_may_die_in_it(matrix: Callable[..., Releases]) -> None:
    """Another release is kept in the slot, and is displaced."""

    def planned(lane: Lane) -> Plan:
        return make_plan(lane.world, lane.next_good(), "a test")

    killed = matrix("rollback", planned)
    check(killed, 4, [point for point in killed.points() if "free" in point or "start" in point])


def test_migrations_may_die_anywhere(matrix: Callable[..., Releases]) -> None:
    """Those that ran stay, the others are the next deploy's; the traffic stays where it is."""

    def planned(lane: Lane) -> Plan:
        database = lane.rollout.scene.database.database
        return MigrationPlan(stage="test", database=database, commit=lane.migration())

    check(matrix("migrate", planned), 4)


def test_a_deploy_may_die_in_its_migrations(matrix: Callable[..., Releases]) -> None:
    """Both are undone, but for the migrations that ran: an expanded schema serves the release before as well."""

    def planned(lane: Lane) -> Plan:
        return lane.plan(lane.migration()).model_copy(update={"pending": True})

    moments = [f"migrate {{database}}:{moment}" for moment in ("intent", "acted", "done")]
    check(matrix("deploy", planned), 4, [*moments, "settle"])


# ---- in the bake, which is no step


@pytest.fixture
def baking(lanes: dict[str, Lane], nursery: Nursery) -> Generator[tuple[Lane, Arguments, Any]]:
    """A deploy after the first look of its bake, which has more to come."""
    lane = next(iter(lanes.values()))
    lane.bakes(15)
    plan = lane.plan(lane.next_good())
    arguments = arguments_of(lane, "deploy", plan, f"baking {secrets.token_hex(4)}")
    process = nursery.start("tests.parts.rescue:run", arguments, {})
    try:
        eventually(lambda: lane.world.ledger.releases.looks(arguments["key"]), 60)
        yield lane, arguments, process
    finally:
        process.kill()
        lane.bakes(1)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
def test_a_deploy_that_dies_in_its_bake_is_undone(baking: tuple[Lane, Arguments, Any], fault: int) -> None:
    lane, arguments, process = baking
    before, book = arguments["plan"]["previous"], Book(lane.world.ledger, arguments["key"])
    process.send_signal(fault)
    began = time.monotonic()
    assert settled(book, 60)
    assert time.monotonic() - began < PROMISED_S
    assert book.wrong() == []
    assert lane.wrong(book.ledger, before) == []
    stood = (book.told(), lane.position(), len(book.ledger.releases.looks(book.key)))
    if fault == signal.SIGSTOP:
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 3
        time.sleep(1)
    assert (book.told(), lane.position(), len(book.ledger.releases.looks(book.key))) == stood
    assert book.operation()["reason"] == "its holder died while acting"
    assert lane.wrong_for_visitors([lane.bad]) == []


def test_the_same_key_goes_on_from_the_looks_that_were_stored(
    baking: tuple[Lane, Arguments, Any], nursery: Nursery
) -> None:
    lane, arguments, process = baking
    process.kill()
    process.wait(10)
    before = lane.world.ledger.releases.looks(arguments["key"])
    live = lane.world.ledger.releases.bake(arguments["key"])
    end = time.monotonic() + 60
    while nursery.start("tests.parts.rescue:run", arguments, {}).wait(60) != 0:
        assert time.monotonic() < end, "it never went on"
    book = Book(lane.world.ledger, arguments["key"])
    after = book.ledger.releases.looks(book.key)
    assert book.operation()["state"] == "done"
    assert lane.wrong(book.ledger, arguments["plan"]["commit"]) == []
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert book.ledger.releases.bake(book.key) == live
    assert lane.wrong_for_visitors([lane.bad]) == []
