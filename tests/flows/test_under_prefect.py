"""Under a real Prefect server and engine: a worker of another stage is refused, a server away stops no backup."""

import socket
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from deployments.local.objectstore import ObjectStore
from flows.backup.flow import backup
from flows.parts import wanted_blocks
from flows.status.flow import status
from tests.parts.scene import Scene, s3_place, scene
from tests.parts.wire import Wire


@pytest.fixture(scope="module")
def stage(postgres17: Cluster, weed: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    """A scene whose blocks are on a Prefect server of this module's own."""
    folder = tmp_path_factory.mktemp("stage")
    with scene(postgres17, s3_place(weed), folder) as made, prefect_test_harness(server_startup_timeout=180):
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
    port = urlsplit(str(PREFECT_API_URL.value())).port
    assert port
    with closing(Deaf(Address("127.0.0.1", port, "", "", "", "disable"))) as wire:
        url = f"http://127.0.0.1:{wire.address.port}/api"
        way: dict[Any, Any] = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(way):
            state = backup("test", "daily", return_state=True)
        assert wire.broken >= 1
    assert state.is_completed(), state.message
    assert caplog.text.count("the progress is not shown (") == 1
    (made,) = stage.bucket.backups
    assert made.id in str(state.message)
    assert not stage.half(made.id)
