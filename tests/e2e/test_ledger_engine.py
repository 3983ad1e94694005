"""The ledger under Prefect's engine: steps are tasks of their names, a dead process' run is marked Crashed."""

from collections.abc import Generator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import Running

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from flows.ledger import Operation, Settled, steps
from tests.parts.deaths import DIED, expire, fork, reconcile
from tests.parts.killing import Book
from tests.parts.ledger import ledger_database, make_world
from tests.parts.prefect_server import prefect_server
from tests.parts.processes import eventually
from tests.parts.toys import ToyFile, ToyPlan, ToyWorld, toy_deploy, toy_ledger


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    yield from ledger_database(postgres17)


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Generator[None]:
    with prefect_server():
        yield


@pytest.fixture
def world(tmp_path: Path, address: Address) -> ToyWorld:
    return make_world(tmp_path, address)


def tasks_of(run: UUID) -> list[str]:
    """The names of a run's tasks, in order."""
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
    begun = [(each.start_time, each.name) for each in found if each.start_time]
    return [name for _, name in sorted(begun)]


def test_steps_and_their_undo_are_tasks_of_their_names(world: ToyWorld) -> None:
    runs: list[UUID] = []

    @flow
    def deployed() -> Settled:
        from prefect.runtime import flow_run

        runs.append(UUID(str(flow_run.id)))
        return toy_ledger(world).carry_out(toy_deploy, ToyPlan(bad=True), key="k")

    with pytest.raises(Refused, match="error rate"):
        deployed()

    wanted = ["start green", "weights", "empty", "undo empty", "undo weights", "undo start green"]
    eventually(lambda: len(tasks_of(runs[0])) >= len(wanted), 60)  # the server writes them down from events
    assert tasks_of(runs[0]) == wanted
    assert Book(toy_ledger(world), "k").operation()["prefect_run"] == runs[0]


def test_a_step_is_asked_again_when_nothing_answered_and_only_then(world: ToyWorld) -> None:
    class ToyFlaky(ToyFile):
        def write(self, world: ToyWorld, want: object) -> None:
            world.log("tried")
            if len(world.written()) < 3:
                raise Unreachable("nothing answered")
            super().write(world, want)  # pyright: ignore[reportArgumentType]

    @steps("flaky", holds=["{stage}/release"])
    def flaky(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFlaky("a"), 1)

    @flow
    def shaky() -> Settled:
        return toy_ledger(world).carry_out(flaky, ToyPlan(), key="k")

    assert shaky().state == "done"
    assert len(world.written()) == 4
    assert [what for what in Book(toy_ledger(world), "k").told() if what.endswith(": a")] == ["intent: a", "done: a"]


@flow
def deploy() -> None:
    """Stands for the run of a process that died."""


def test_the_run_of_a_dead_process_is_marked_crashed(world: ToyWorld) -> None:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(deploy, state=Running())
        act = fork(lambda: toy_ledger(world).carry_out(toy_deploy, ToyPlan(), key="k"), "weights:acted")
        assert act.ended() == DIED
        with world.address.connect() as connection:
            connection.execute("update ledger.operation set prefect_run = %s", [run.id])
        expire(world.address)

        said = reconcile(toy_ledger(world))

        assert f"marked run {run.id} as crashed" in said
        state = client.read_flow_run(run.id).state
        assert state is not None
        assert state.is_crashed()
