"""A ledger that freezes, breaks off, restarts or jumps in time while an operation is at work."""

import threading
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from flows.ledger import Fenced, Ledger, Operation, Unheard, steps
from tests.parts.deaths import reconcile
from tests.parts.ledger import ledger_database, make_world
from tests.parts.toys import ToyFile, ToyPlan, ToyWorld, toy_ledger
from tests.parts.wire import Wire


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    yield from ledger_database(postgres17)


@pytest.fixture
def world(tmp_path: Path, address: Address) -> ToyWorld:
    return make_world(tmp_path, address)


@pytest.fixture
def wire(world: ToyWorld) -> Generator[Wire]:
    with closing(Wire(world.address)) as wire:
        yield wire


def over(wire: Wire, world: ToyWorld, lease_s: float = 3.0) -> Ledger:
    """A ledger reached over the wire."""
    return toy_ledger(replace(world, address=wire.address), lease_s)


def test_a_ledger_that_is_frozen_for_a_while_stops_no_healthy_operation(world: ToyWorld, wire: Wire) -> None:
    @steps("meets a freeze", holds=["{stage}/release"])
    def frozen(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        wire.freeze(2)
        op.ensure("b", ToyFile("b"), 1)
        op.commit("both")

    assert over(wire, world).carry_out(frozen, ToyPlan(), key="k").state == "done"
    assert len(world.written()) == 2


def test_a_ledger_that_restarts_is_waited_for(world: ToyWorld, wire: Wire) -> None:
    @steps("meets a restart", holds=["{stage}/release"])
    def restarted(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        wire.go_away(2)
        op.ensure("b", ToyFile("b"), 1)

    assert over(wire, world).carry_out(restarted, ToyPlan(), key="k").state == "done"


def test_connections_that_break_all_the_time_do_no_harm(world: ToyWorld, wire: Wire) -> None:
    @steps("meets a bad network", holds=["{stage}/release"])
    def shaky(op: Operation, plan: ToyPlan) -> None:
        for number in range(8):
            wire.cut()
            op.ensure(f"a{number}", ToyFile("a"), number)

    ledger = over(wire, world)
    assert ledger.carry_out(shaky, ToyPlan(), key="k").state == "done"
    assert len(world.written()) == 8


def test_a_ledger_that_stays_silent_ends_the_work_and_the_work_alone(world: ToyWorld, wire: Wire) -> None:
    @steps("is never heard again", holds=["{stage}/release"])
    def unheard(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        wire.freeze(60)
        op.ensure("b", ToyFile("b"), 1)

    begun = time.monotonic()
    with pytest.raises(Unheard):
        over(wire, world, 1.0).carry_out(unheard, ToyPlan(), key="k")

    assert time.monotonic() - begun < 15
    assert world.cells() == {"a": 1}  # nothing is undone by who does not know whether he may
    reconcile(toy_ledger(world))
    assert world.cells() == {}


def test_a_lock_on_the_rows_is_outwaited(world: ToyWorld) -> None:
    @steps("meets a lock", holds=["{stage}/release"])
    def locked(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        connection = world.address.connect(autocommit=False)
        connection.execute("lock table ledger.step in access exclusive mode")
        threading.Timer(1.5, connection.close).start()
        op.ensure("b", ToyFile("b"), 1)

    assert toy_ledger(world, 1.5).carry_out(locked, ToyPlan(), key="k").state == "done"


def test_a_day_forward_on_the_ledgers_clock_undoes_no_living_operation(world: ToyWorld) -> None:
    """The clock is not moved: a lease that ended yesterday looks the same, and the holder's renewals mend it."""

    @steps("lives through a jump", holds=["{stage}/release"])
    def lives(op: Operation, plan: ToyPlan) -> None:
        watcher = toy_ledger(world, 1.5)
        for days in (-1, 1):
            with closing(world.address.connect()) as connection:
                connection.execute(
                    "update ledger.operation set expires_at = expires_at + %s * interval '1 day'", [days]
                )
            end = time.monotonic() + 1.2
            while time.monotonic() < end:
                assert not [line for line in watcher.tick_once() if line.startswith("took over")]
                op.still()
        op.ensure("a", ToyFile("a"), 1)

    assert toy_ledger(world, 1.5).carry_out(lives, ToyPlan(), key="k").state == "done"


def test_after_a_day_back_on_the_ledgers_clock_the_dead_do_not_wait_a_day(world: ToyWorld) -> None:
    ledger = toy_ledger(world, 1.0)

    @steps("dies in the future", holds=["{stage}/release"])
    def dies(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        op.release()
        with closing(world.address.connect()) as connection:
            connection.execute("update ledger.operation set expires_at = expires_at + interval '1 day'")
        reconcile(ledger)
        op.ensure("b", ToyFile("b"), 1)

    with pytest.raises(Fenced):
        ledger.carry_out(dies, ToyPlan(), key="k")
    assert world.cells() == {}
