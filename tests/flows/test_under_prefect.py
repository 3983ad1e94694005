"""Under a real Prefect server: another stage's worker is refused, a server away stops no backup, the dead are told."""

import re
import socket
import time
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventIDFilter
from prefect.events.worker import EventsWorker
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL,
    temporary_settings,
)
from prefect.states import Running

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.postgres.server import PostgresServer
from deployments.local.objectstore import ObjectStore
from flows.backup.flow import backup
from flows.effect import without_prefect
from flows.parts import wanted_blocks
from flows.people import plan_in_form
from flows.reconcile.heartbeats import SILENT, Heard
from flows.reconcile.tasks import HEARTBEAT, listen
from flows.restore.flow import restore
from flows.status.flow import status
from tests.parts.prefect_server import prefect_server
from tests.parts.scene import Scene, scene
from tests.parts.store import s3_place
from tests.parts.wire import Wire


@pytest.fixture(scope="module")
def stage(postgres17: Cluster, weed: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    """A scene whose blocks are on a Prefect server of this module's own."""
    folder = tmp_path_factory.mktemp("stage")
    at_once = temporary_settings({PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL: 0.2})
    with at_once, scene(postgres17, s3_place(weed), folder) as made, prefect_server():
        for wanted in wanted_blocks(made.world.stage, made.environ):
            if not wanted.missing:
                wanted.build().save(wanted.name, overwrite=True)
        yield made


def run_on(pool: str, flow: Flow[..., str]) -> State[str]:
    """How a run of the flow for the stage `test` ends that came over this work pool."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        deployment = client.create_deployment(
            flow_id=client.create_flow(flow), name=pool, work_pool_name=pool, parameters={"stage": "test"}
        )
        run = client.create_flow_run_from_deployment(deployment)
        assert client.read_flow_run(run.id).work_pool_name == pool
        run_flow(flow, flow_run=client.read_flow_run(run.id), parameters={"stage": "test"}, return_type="state")
        state = client.read_flow_run(run.id).state
    assert state
    return state


def test_a_worker_of_another_stage_is_refused_before_anything(stage: Scene) -> None:
    before = len(stage.world.ledger.history(500))
    other = run_on("production", backup)
    assert other.is_failed()
    assert other.message == (
        "stage 'test' was asked for on a worker of 'production': a stage runs on its own work pool only"
    )
    assert len(stage.world.ledger.history(500)) == before
    assert "reconcile has never run" in str(run_on("test", status).message)  # its own pool: it is looked at


def test_the_example_in_the_documentation_of_a_block_runs(stage: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.sub(r"```(python)?", "", PostgresServer.get_code_example() or "")
    exec(example.replace("BLOCK_NAME", stage.world.stage.name), {})  # noqa: S102 - that it runs is the test
    assert "dumped with pg_dump 17" in capsys.readouterr().out


def running(pool: str, deployment: UUID) -> UUID:
    """A run that Prefect takes for running; no process is behind it."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, name=f"of {pool}")
        client.set_flow_run_state(run.id, Running(), force=True)
    return run.id


def beat(*runs: UUID) -> None:
    """A heartbeat of each of these runs, as Prefect's engine sends it; it has arrived when this returns."""
    sent = [emit_event(HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{run}"}) for run in runs]
    wanted = {each.id for each in sent if each}
    assert len(wanted) == len(runs)
    end = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        arrived = EventFilter(id=EventIDFilter(id=list(wanted)))
        while {each.id for each in client.read_events(arrived, limit=len(runs)).events} != wanted:
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.usefixtures("stage")
def test_a_run_that_fell_silent_is_marked_crashed_and_nobody_elses() -> None:
    """As after the death of a whole machine: no worker is there to say it."""
    pools: dict[str, UUID] = {}
    with get_client(sync_client=True) as client:
        for pool in ("silent", "neighbour"):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
            pools[pool] = client.create_deployment(client.create_flow(backup), pool, work_pool_name=pool)
    own, dead, living, holding = (running("silent", pools["silent"]) for _ in range(4))
    unheard, other = running("silent", pools["silent"]), running("neighbour", pools["neighbour"])
    beat(dead, other, holding)
    heard, said = Heard(), list[str]()
    for _ in range(SILENT + 1):
        assert said == []
        beat(own, living)
        heard, said = listen("silent", own, heard, {holding})
    assert said == ["marked run of silent as crashed: its process is dead"]
    with get_client(sync_client=True) as client:
        states = {run: client.read_flow_run(run).state_name for run in (own, dead, living, unheard, other, holding)}
    assert states.pop(dead) == "Crashed"
    assert set(states.values()) == {"Running"}
    beat(own)
    assert listen("silent", own, heard, {holding})[1] == []


def oid_of(stage: Scene, name: str) -> int:
    with stage.database.at("postgres").connect() as connection:
        row = connection.execute("select oid from pg_database where datname = %s", [name]).fetchone()
    assert row
    return int(row[0])


def goes_on(run: UUID, parameters: dict[str, str]) -> State[Any]:
    """What a worker does with a run that is due: it starts at its first line."""
    with get_client(sync_client=True) as client:
        with suppress(Pause):
            run_flow(restore, flow_run=client.read_flow_run(run), parameters=parameters, return_type="state")
        state = client.read_flow_run(run).state
    assert state
    return state


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"database": "app"}, "the approval names 'app', the live database is '{live}': nothing was changed"),
        (
            {"plan": "0" * 16},
            "the world changed between the plan and its approval: nothing was changed; look at the new plan",
        ),
    ],
)
def test_a_swap_whose_approval_is_of_another_database_or_plan_fails_and_touches_nothing(
    stage: Scene, changed: dict[str, str], sentence: str
) -> None:
    live = stage.database.database
    before = oid_of(stage, live)
    with without_prefect():
        taken = backup("test").partition(":")[0]
    parameters = {"stage": "test", "which": taken, "swap": live}
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(restore), "swap", parameters=parameters)
        run = client.create_flow_run_from_deployment(deployment).id
        waits = goes_on(run, parameters)
        assert waits.is_paused(), waits.message
        answer = {"database": live, "approved_by": "anna", "plan": plan_in_form(client, client.read_flow_run(run))}

    with pytest.raises(RuntimeError, match="'plan' is a required property"):
        resume_flow_run(run, {name: text for name, text in answer.items() if name != "plan"})
    resume_flow_run(run, answer | changed)
    ended = goes_on(run, parameters)

    assert (ended.is_failed(), ended.message) == (True, sentence.format(live=live))
    assert oid_of(stage, live) == before
    assert "swap" not in {each.kind for each in stage.world.ledger.history(500)}


class Deaf(Wire):
    """A way to a Prefect server that breaks off whenever progress is to be shown."""

    broken = 0

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if data.startswith(b"PATCH /api/artifacts/"):
                    self.broken += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_server_that_goes_away_while_progress_is_shown_stops_no_backup(
    stage: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    before = {each.id for each in stage.bucket.backups}
    port = urlsplit(str(PREFECT_API_URL.value())).port
    assert port
    with closing(Deaf(Address("127.0.0.1", port, "", "", "", "disable"))) as wire:
        url = f"http://127.0.0.1:{wire.address.port}/api"
        way: dict[Any, Any] = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(way):
            state = backup("test", "daily", return_state=True)
            sent = EventsWorker.drain_all(timeout=30)  # over this wire: the server's end would wait for them for ever
        assert isinstance(sent, tuple)
        assert not sent[1], "events that were never sent"
        assert wire.broken >= 1
    assert state.is_completed(), state.message
    assert caplog.text.count("the progress is not shown (") == 1
    (made,) = [each for each in stage.bucket.backups if each.id not in before]
    assert made.id in str(state.message)
    assert not stage.half(made.id)
