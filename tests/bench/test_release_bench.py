"""The promises of a release's switch, measured: 100 000 requests and none failed, and how soon a bad one is gone.

BENCH_REQUESTS is how many (100 000). The machine's load stands beside each figure: all of it runs on the same cores.
"""

import json
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing
from datetime import datetime

import pytest

from flows.deploy.flow import deploy
from flows.effect import NotDone
from flows.ledger import Ledger
from flows.rollback.asking import release_of, verify
from flows.rollback.flow import rollback
from flows.rollback.plan import RollbackPlan
from flows.rollback.steps import go_back
from flows.rollback.tasks import make_plan
from flows.world import World
from tests.flows.conftest import stage
from tests.parts.lane import Lane, live_through, open_lane
from tests.parts.scene import Scene

__all__ = ["stage"]  # a fixture
pytestmark = pytest.mark.timeout(3600)
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "100000"))
LAST_BAD_S, VERIFIED_S, PLANNED_S = 0.1, 5.0, 3.0
WEEK_S = 7 * 86_400
TIMES = 3


@pytest.fixture(scope="module")
def service(stage: Scene, tmp_path_factory: pytest.TempPathFactory) -> Generator[Lane]:
    with open_lane(stage, tmp_path_factory.mktemp("load"), clients=8, pause_s=0.001) as made:
        made.bakes(2)
        yield made


def told(ledger: Ledger, beginning: str) -> datetime:
    """When the story of the newest deploy or rollback says so."""
    newest = next(each for each in ledger.history() if each.kind != "migrate")
    return next(at for at, what in ledger.story(newest.id) if what.startswith(beginning))


def last_answer(service: Lane, release: str, since: float, status: int) -> float:
    """When the last request that the release answered so was answered."""
    return max(
        each.ended for each in service.visitors.answers(since) if (each.release, each.status) == (release, status)
    )


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def test_a_bad_release_is_gone_at_once_and_the_one_before_is_verified(service: Lane) -> None:
    for _ in range(TIMES):
        began = time.time()
        bad = service.rollout.repository.release("feat: a fault", {"bad": True})
        with pytest.raises(NotDone, match="serves again"):
            deploy("test", bad)
        verified, ledger = time.time(), service.world.ledger
        time.sleep(0.5)
        last = last_answer(service, bad, began, 500) - told(ledger, "undoing: shift").timestamp()
        took = verified - told(ledger, "undoing").timestamp()
        said = f"last bad answer {last * 1000:.0f} ms after the command, verified {took:.2f} s after the decision"
        print(f"automatic: {said}; {load()}")  # noqa: T201
        assert last <= LAST_BAD_S
        assert took <= VERIFIED_S


def test_a_rollback_by_a_person_is_verified_soon(service: Lane) -> None:
    for _ in range(TIMES):
        deploy("test", service.new_good())
        left = service.rollout.serves()
        kept = next(commit for commit in service.rollout.runs().values() if commit != left)
        began = time.time()
        said = went_back(service.world, kept)
        took = time.time() - began
        time.sleep(0.5)
        switched = told(service.world.ledger, "intent: shift").timestamp()
        late = [each for each in service.visitors.answers(switched + LAST_BAD_S) if each.release == left]
        print(f"by a person: decided to verified {took:.2f} s ({', '.join(said)}); {load()}")  # noqa: T201
        assert late == []
        assert took <= VERIFIED_S


def test_a_dry_run_shows_its_plan_at_once(service: Lane) -> None:
    """After a week in which every second had its requests."""
    with service.rollout.scene.ledger.connect() as connection:
        connection.execute("set session_replication_role = replica")  # no trigger keeps the past as it was
        connection.execute("update ledger.bake set live_at = live_at - interval '8 days'")
    hist = json.dumps({str(bucket): 1 for bucket in range(14, 39)})
    now = int(time.time())
    rows = ((now - back, slot, 25, back % 40 == 1, hist) for back in range(60, WEEK_S) for slot in ("blue", "green"))
    service.rollout.counter.stop()  # its file has one writer
    with closing(sqlite3.connect(service.environ["COUNTER_FILE"], timeout=60)) as file, file:
        file.executemany("insert or replace into served values (?, ?, ?, ?, ?)", rows)
    service.rollout.count()
    for name, flow in (("deploy", deploy), ("rollback", rollback)):
        began = time.monotonic()
        flow("test", dry_run=True)
        took = time.monotonic() - began
        print(f"{name}'s dry run: {took:.2f} s; {load()}")  # noqa: T201
        assert took <= PLANNED_S


def went_back(world: World, commit: str) -> list[str]:
    """The flow rollback up to its verification, without looking for a while whether it helped."""

    def plan() -> RollbackPlan:
        return make_plan(world, commit, "measured")

    planned = plan()
    world.carry_out(go_back, planned, key=planned.key, look=plan)
    return verify(world, release_of(world, planned.key))


def test_no_request_fails_and_no_post_is_executed_twice(service: Lane) -> None:
    bad, began = set[str](), time.time()
    while not bad or len(service.visitors.answers(began)) < REQUESTS:
        bad.add(live_through(service))
    wrong = service.wrong_for_visitors(bad, began)
    answers, seconds = service.visitors.answers(began), time.time() - began
    posts = sum(each.method == "POST" for each in answers)
    said = f"{len(answers)} requests ({posts} POSTs) in {seconds:.0f} s, {len(bad)} rounds"
    print(f"{said}: {len(wrong)} failed or executed twice; {load()}")  # noqa: T201
    assert wrong == []
