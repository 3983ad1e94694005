"""Deaths, stops and late wakings, and who takes over: with real processes and real leases."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from blocks.errors import Refused
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from flows.ledger import Busy, Fenced, Ledger, Operation, steps
from flows.ledger.hands import end_older
from tests.parts.deaths import DIED, expire, fork, reconcile
from tests.parts.killing import Book
from tests.parts.ledger import ledger_database, make_world
from tests.parts.toys import (
    ToyFile,
    ToyPlan,
    ToyStage,
    ToyWorld,
    toy_deploy,
    toy_family,
    toy_ledger,
    toy_migrate,
    toy_moves,
)

LEASE_S = 1.5
MOVES = ToyPlan(moves=(("a", 1), ("b", 2), ("a", 3)), commit_at=2)


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    yield from ledger_database(postgres17)


@pytest.fixture
def world(tmp_path: Path, address: Address) -> ToyWorld:
    return make_world(tmp_path, address)


@pytest.fixture
def ledger(world: ToyWorld) -> Generator[Ledger]:
    with closing(toy_ledger(world, LEASE_S)) as ledger:
        yield ledger


def deploy(world: ToyWorld, key: str = "k", *, expendable: bool = False) -> Callable[[], object]:
    """The toy deployment as a process would do it."""
    return lambda: toy_ledger(world, LEASE_S, expendable=expendable).carry_out(toy_deploy, ToyPlan(), key=key)


def taken_over(ledger: Ledger) -> list[str]:
    """What one pass took over; the ledger of the test before may still be leaving."""
    return [line for line in ledger.tick_once() if line.startswith("took over")]


def moves(world: ToyWorld, key: str = "k") -> Callable[[], object]:
    return lambda: toy_ledger(world, LEASE_S).carry_out(toy_moves, MOVES, key=key)


def test_a_death_before_the_commit_is_undone_by_reconcile(world: ToyWorld, ledger: Ledger) -> None:
    assert fork(deploy(world), "weights:acted").ended() == DIED
    expire(world.address)

    said = reconcile(ledger)

    assert [line.split(" from ")[0] for line in said] == [
        "took over toy deploy k",
        "settled toy deploy k: undone, its holder died while acting, in step weights",
    ]
    assert not Book(ledger, "k").wrong()
    assert world.cells() == {}


def test_a_point_to_die_at_means_nothing_on_a_stage_that_allows_no_faults(world: ToyWorld, ledger: Ledger) -> None:
    peoples = replace(world, stage=ToyStage(faults=False))

    assert fork(moves(peoples), "move 1:acted").ended() == 0

    assert Book(ledger, "k").operation()["state"] == "done"
    assert fork(moves(world, "again"), "move 1:acted").ended() == DIED  # where it is allowed, that point is met
    expire(world.address)
    reconcile(ledger)


def test_a_death_after_the_commit_is_finished_forward(world: ToyWorld, ledger: Ledger) -> None:
    assert fork(moves(world), "move 2:intent").ended() == DIED
    expire(world.address)
    reconcile(ledger)

    assert Book(ledger, "k").operation()["state"] == "done"
    assert world.cells() == {"a": 3, "b": 2}


def test_nothing_is_taken_over_before_its_lease_ran_out_and_it_stood_still(world: ToyWorld, ledger: Ledger) -> None:
    assert fork(moves(world), "move 0:done").ended() == DIED
    assert not taken_over(ledger)
    with pytest.raises(Busy, match="k is held by toy moves k"):
        ledger.carry_out(toy_moves, MOVES, key="k")

    said = reconcile(ledger)

    assert [line for line in said if line.startswith("took over")]
    assert not ledger.open()


def test_the_same_key_goes_on_where_the_dead_one_was(world: ToyWorld, ledger: Ledger) -> None:
    assert fork(moves(world), "move 1:acted").ended() == DIED
    expire(world.address)

    assert ledger.carry_out(toy_moves, MOVES, key="k").state == "done"
    assert len(world.written()) == 3  # the step in doubt was found where it should be, and not written again


def test_the_same_key_goes_on_with_an_undo_that_was_under_way(world: ToyWorld, ledger: Ledger) -> None:
    bad = MOVES.model_copy(update={"bad": True})
    act = fork(lambda: toy_ledger(world).carry_out(toy_moves, bad, key="k"), "undo move 1:acted")
    assert act.ended() == DIED
    expire(world.address)

    settled = ledger.carry_out(toy_moves, bad, key="k")

    assert (settled.state, settled.reason) == ("undone", "error rate 4.1 %")
    assert world.cells() == {}


@pytest.mark.parametrize("point", ["weights:acted", "commit", "stop blue:intent"])
def test_a_stopped_holder_that_wakes_up_late_writes_nothing(world: ToyWorld, ledger: Ledger, point: str) -> None:
    ToyFile("blue").write(world, "running")
    zombie = fork(deploy(world), point, "stop")
    assert zombie.stopped()
    reconcile(ledger)
    before = (world.written(), world.cells(), Book(ledger, "k").told())

    assert zombie.wake() == 3
    assert (world.written(), world.cells(), Book(ledger, "k").told()) == before
    assert not Book(ledger, "k").wrong()


def test_an_expendable_holder_on_this_host_is_killed_before_its_work_is_touched(
    world: ToyWorld, ledger: Ledger
) -> None:
    zombie = fork(deploy(world, expendable=True), "weights:intent", "stop")
    assert zombie.stopped()
    reconcile(ledger)

    assert zombie.ended() == DIED


def test_of_three_controllers_at_once_one_acts(world: ToyWorld, ledger: Ledger) -> None:
    codes = sorted(each.ended() for each in [fork(moves(world)) for _ in range(3)])

    assert codes[0] == 0
    assert [entry.state for entry in ledger.history()] == ["done"]
    assert len(world.written()) == 3


def test_of_many_takers_at_one_instant_one_wins(world: ToyWorld, ledger: Ledger) -> None:
    assert fork(moves(world), "move 1:acted").ended() == DIED
    expire(world.address)
    row = ledger._line.ask("select * from ledger.operation")[0]  # pyright: ignore[reportPrivateUsage]

    def take() -> None:
        hands = toy_ledger(world)._hands  # pyright: ignore[reportPrivateUsage]
        if hands.take(row) is None:
            raise Refused("another was quicker")

    assert sorted(each.ended() for each in [fork(take) for _ in range(4)]) == [0, 3, 3, 3]


def test_a_long_finish_holds_up_nobody_else(world: ToyWorld) -> None:
    @steps("takes long", holds=["{stage}/backups/{database}"], forward=True)
    def long(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        time.sleep(3)

    assert fork(lambda: toy_ledger(world).carry_out(long, ToyPlan(), key="long"), "a:done").ended() == DIED
    assert fork(deploy(world), "weights:acted").ended() == DIED
    expire(world.address)
    ledger = toy_ledger(world)
    while [entry.key for entry in ledger.open()] != ["long"]:  # it would never be open alone if it held the other up
        ledger.tick_once()
    reconcile(ledger)
    assert {entry.key: entry.state for entry in ledger.history()} == {"long": "done", "k": "undone"}


def test_a_child_is_settled_before_its_parent(world: ToyWorld, ledger: Ledger) -> None:
    plan = ToyPlan()
    act = fork(lambda: toy_ledger(world).carry_out(toy_family, plan, key="k"), "schema:acted")
    assert act.ended() == DIED
    expire(world.address)

    said = [line for line in reconcile(ledger) if line.startswith("settled")]

    assert [line.split(":")[0] for line in said] == ["settled toy migrate k/migrate", "settled toy family k"]
    assert world.cells() == {"schema": 2}


def test_what_cannot_be_rebuilt_is_trouble_that_is_told_and_stays_open(world: ToyWorld, ledger: Ledger) -> None:
    assert fork(deploy(world), "weights:acted").ended() == DIED
    assert fork(lambda: toy_ledger(world).carry_out(toy_migrate, ToyPlan(), key="m"), "schema:intent").ended() == DIED
    with closing(world.address.connect()) as connection:
        connection.execute("alter table ledger.step disable trigger fence")
        connection.execute("update ledger.step set setting = 'Forgotten' where name = 'weights'")
        connection.execute("alter table ledger.step enable trigger fence")
        connection.execute("alter table ledger.operation disable trigger legal")
        connection.execute("update ledger.operation set kind = 'forgotten' where key = 'm'")
        connection.execute("alter table ledger.operation enable trigger legal")
    expire(world.address)
    while not all(entry.trouble for entry in ledger.open()):
        ledger.tick_once()

    assert {entry.key: entry.trouble for entry in ledger.open()} == {
        "m": "no step list named forgotten is known here: run the release that recorded it, or import its module",
        "k": "no setting named Forgotten is known here: run the release that recorded it, or import its module",
    }
    assert all(entry.scopes for entry in ledger.open())


def test_a_taker_ends_the_connections_of_older_tokens_only(world: ToyWorld) -> None:
    with (
        closing(world.address.connect(application_name="shipkeeper 7 3")) as old,
        closing(world.address.connect(application_name="shipkeeper 7 4")) as new,
        closing(world.address.connect(application_name="shipkeeper 71 3")) as other,
    ):
        end_older(world.address, 7, 4)
        time.sleep(0.2)
        new.execute("select 1")
        other.execute("select 1")
        with pytest.raises(Exception, match="terminat"):
            old.execute("select 1")


def test_only_one_reconcile_works_and_the_spare_says_that_it_waits(world: ToyWorld) -> None:
    tick = timedelta(seconds=0.4)
    first, spare = toy_ledger(world, tick=tick), toy_ledger(world, tick=tick)
    while first.tick_once():
        time.sleep(0.1)  # the one of the test before leaves
    assert spare.tick_once() == ["another reconcile is at work: this one waits"]
    time.sleep(1.6)  # three ticks without a word: as of a stopped process, its session is ended by the ledger
    assert spare.tick_once() == []
    assert spare.ticked() is not None
    spare.close()


def test_a_renewal_comes_in_time_while_a_c_call_holds_the_lock_of_the_interpreter(world: ToyWorld) -> None:
    @steps("is deaf for a while", holds=["{stage}/release"])
    def deaf(op: Operation, plan: ToyPlan) -> None:
        for number in range(2):
            _hold_the_interpreter(1.5)
            op.ensure(f"a{number}", ToyFile("a"), number)

    holder = fork(lambda: toy_ledger(world, 3.0).carry_out(deaf, ToyPlan(), key="k"))
    watcher = toy_ledger(world)
    end = time.monotonic() + 20
    while not (entries := watcher.history()) or entries[0].ended_at is None:
        assert time.monotonic() < end
        assert not taken_over(watcher)
        time.sleep(0.05)
    assert holder.ended() == 0


def _hold_the_interpreter(seconds: float) -> None:
    """A C call that does not let other threads run, as a big regular expression or a long sort does."""
    begun, size = time.monotonic(), 1 << 16
    while time.monotonic() - begun < seconds:
        before = time.monotonic()
        sum(range(size))  # one C call, never interrupted
        if time.monotonic() - before < seconds / 4:
            size *= 2


def test_a_process_that_is_not_expendable_is_never_killed(world: ToyWorld, ledger: Ledger) -> None:
    zombie = fork(deploy(world), "weights:intent", "stop")
    assert zombie.stopped()
    reconcile(ledger)

    os.kill(zombie.pid, 0)
    assert zombie.wake() == 3


def test_a_holder_that_was_taken_over_learns_it_with_its_next_word(world: ToyWorld, ledger: Ledger) -> None:
    @steps("loses it", holds=["{stage}/release"])
    def loses(op: Operation, plan: ToyPlan) -> None:
        with closing(world.address.connect()) as connection:
            connection.execute("update ledger.operation set token = nextval('ledger.token')")
        with pytest.raises(Fenced):
            op.commit("too late")
        with pytest.raises(Fenced):
            op.still()
        op.ensure("a", ToyFile("a"), 1)

    with pytest.raises(Fenced):
        ledger.carry_out(loses, ToyPlan(), key="k")
    assert world.written() == []
