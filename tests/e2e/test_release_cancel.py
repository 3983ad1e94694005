"""A deploy that is cancelled in the UI while it bakes takes itself back, and its record says why in words."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from tests.flows.conftest import stage
from tests.parts.killing import ROOT, Book
from tests.parts.lane import Lane, open_lane
from tests.parts.prefect_server import prefect_server
from tests.parts.scene import Scene

__all__ = ["stage"]  # a fixture
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def service(stage: Scene, tmp_path_factory: pytest.TempPathFactory) -> Generator[Lane]:
    with open_lane(stage, tmp_path_factory.mktemp("cancel")) as made, prefect_server():
        made.bakes(60)
        yield made


def test_a_cancel_in_the_ui_takes_the_release_back_and_says_so(service: Lane) -> None:
    plan, before = service.plan(service.next_good()), service.rollout.serves()
    environ = {**service.environ, "PATH": os.environ["PATH"]}
    arguments = {"kind": "deploy", "plan": plan.model_dump(mode="json"), "environ": environ, "stage": "test"}
    command = [sys.executable, "-m", "tests.parts.killing", "tests.parts.rescue:run_under_prefect"]
    given = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    process = subprocess.Popen([*command, json.dumps({**arguments, "key": "cancelled"})], cwd=ROOT, env=given)
    book, end = Book(service.world.ledger, "cancelled"), time.monotonic() + 60
    while not service.world.ledger.releases.looks(book.key):
        assert time.monotonic() < end, "it never looked"
        time.sleep(0.1)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(book.operation()["prefect_run"], Cancelling())
    process.send_signal(signal.SIGTERM)  # as a worker does
    process.wait(30)

    row = book.operation()
    assert (row["state"], row["attempts"]) == ("undone", 1)  # by itself, before anybody took it over
    assert row["reason"] == "cancelled: its process was told to end"
    assert book.wrong() == []
    assert service.wrong(book.ledger, before) == []
    time.sleep(0.3)  # the slowest visitor's answer
    assert service.wrong_for_visitors([]) == []
