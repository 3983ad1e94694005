"""What a caller of `carry_out` sees: done, undone, refused, busy; and what the journal says of it."""

from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import JsonValue

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from flows.effect import NotDone
from flows.ledger import Busy, Fenced, Ledger, Operation, Stopped, carry_out_alone, steps
from tests.parts.ledger import ledger_database, make_world
from tests.parts.toys import (
    ToyDoor,
    ToyFile,
    ToyPlan,
    ToyWorld,
    toy_deploy,
    toy_family,
    toy_ledger,
    toy_migrate,
    toy_moves,
    toy_prune,
)


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    yield from ledger_database(postgres17)


@pytest.fixture
def world(tmp_path: Path, address: Address) -> ToyWorld:
    return make_world(tmp_path, address)


@pytest.fixture
def ledger(world: ToyWorld) -> Ledger:
    return toy_ledger(world)


MOVES = ToyPlan(moves=(("a", 1), ("b", 2), ("a", 3)), commit_at=2)
OTHER = ToyPlan(moves=(("a", 9),))


def test_a_plan_is_carried_out_once_however_often_its_key_is_asked(world: ToyWorld, ledger: Ledger) -> None:
    first = ledger.carry_out(toy_moves, MOVES, key="k", actor="anna", approved_by="ben")
    again = ledger.carry_out(toy_moves, OTHER, key="k")

    assert first == again
    assert (first.state, first.reason) == ("done", "verdict: pass")
    assert world.cells() == {"a": 3, "b": 2}
    assert len(world.written()) == 3
    assert [str(entry) for entry in ledger.history()] == [
        "toy moves k, done after 0 s: verdict: pass; anna, approved by ben"
    ]


def test_a_failure_before_the_commit_puts_everything_back(world: ToyWorld, ledger: Ledger) -> None:
    bad = ToyPlan(moves=(("a", 1), ("b", 2), ("a", 3)), bad=True)

    with pytest.raises(Refused, match=r"error rate 4\.1 %"):
        ledger.carry_out(toy_moves, bad, key="k")

    assert world.cells() == {}
    assert ledger.carry_out(toy_moves, bad, key="k").state == "undone"
    assert ledger.carry_out(toy_moves, OTHER, key="k2").state == "done"


def test_a_failure_after_the_commit_stays_open_and_says_its_trouble(world: ToyWorld, ledger: Ledger) -> None:
    @steps("breaks after commit", holds=["{stage}/release"])
    def breaks(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        op.commit("no way back")
        raise Refused("the disk is full")

    with pytest.raises(Refused, match="the disk is full"):
        ledger.carry_out(breaks, OTHER, key="k")

    (entry,) = ledger.open()
    assert (entry.state, entry.trouble, entry.failures) == ("committed", "the disk is full", 1)
    assert world.cells() == {"a": 1}
    with pytest.raises(Busy, match="toy/release is held by breaks after commit k of"):
        ledger.carry_out(toy_moves, OTHER, key="k2")


def test_a_cancel_before_the_commit_is_undone_too(world: ToyWorld, ledger: Ledger) -> None:
    @steps("is cancelled", holds=["{stage}/release"])
    def cancelled(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.carry_out(cancelled, OTHER, key="k")

    assert world.cells() == {}
    told = [str(entry) for entry in ledger.history()]
    assert told == ["is cancelled k, undone after 0 s: cancelled: interrupted from the keyboard"]


def test_the_world_is_looked_at_again_while_everything_is_held(world: ToyWorld, ledger: Ledger) -> None:
    settled = ledger.carry_out(toy_moves, MOVES, key="k", look=lambda: OTHER)

    assert settled.state == "undone"
    assert settled.reason
    assert settled.reason.startswith("the world changed since the plan: moves was [['a', 1], ['b', 2], ['a', 3]], is")
    assert world.written() == []
    assert ledger.carry_out(toy_moves, MOVES, key="k2", look=lambda: MOVES).state == "done"


def test_a_list_that_only_goes_forward_is_looked_at_before_it_commits(world: ToyWorld, ledger: Ledger) -> None:
    world_was = ToyPlan(moves=(("a", 0),))

    assert ledger.carry_out(toy_prune, OTHER, key="k", look=lambda: world_was).state == "undone"
    assert ledger.carry_out(toy_prune, OTHER, key="k2", look=lambda: OTHER).state == "done"


def test_a_second_operation_on_the_scope_is_told_who_holds_it(ledger: Ledger) -> None:
    said: list[Busy] = []

    @steps("holds", holds=["{stage}/release"])
    def holds(op: Operation, plan: ToyPlan) -> None:
        with pytest.raises(Busy) as busy:
            ledger.carry_out(toy_moves, OTHER, key="other")
        said.append(busy.value)
        with pytest.raises(Busy, match="k is held by holds k of anna since 20"):
            ledger.carry_out(holds, plan, key="k")

    ledger.carry_out(holds, MOVES, key="k", actor="anna")

    assert "toy/release is held by holds k of anna since 20" in str(said[0])
    assert (said[0].holder, said[0].kind) == ("anna", "holds")
    assert said[0].since is not None


def test_a_busy_scope_is_waited_for_where_the_stage_says_so(world: ToyWorld, ledger: Ledger) -> None:
    @steps("fails at once and stays open", holds=["{stage}/release"], forward=True)
    def stays(op: Operation, plan: ToyPlan) -> None:
        if not world.cells():
            raise Refused("not yet")

    with pytest.raises(Refused):
        ledger.carry_out(stays, OTHER, key="k")
    patient = toy_ledger(world, when_busy="wait", wait_limit=timedelta(seconds=0.6))
    with pytest.raises(Busy):
        patient.carry_out(toy_moves, MOVES, key="k2")
    ToyFile("z").write(world, 1)
    ledger.carry_out(stays, OTHER, key="k")
    assert patient.carry_out(toy_moves, MOVES, key="k2").state == "done"


def test_a_one_way_step_is_refused_before_the_commit(world: ToyWorld, ledger: Ledger) -> None:
    @steps("too early", holds=["{stage}/release"])
    def early(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        op.ensure("b", ToyDoor("b"), 1)

    with pytest.raises(Refused, match="step b is one way: it is allowed only after the commit"):
        ledger.carry_out(early, OTHER, key="k")
    assert world.cells() == {}


def test_a_step_that_does_not_stay_where_it_was_put_fails(world: ToyWorld, ledger: Ledger) -> None:
    class ToySlips(ToyFile):
        def write(self, world: ToyWorld, want: JsonValue) -> None:
            world.log(f"{want} slipped")

    @steps("slips", holds=["{stage}/release"])
    def slips(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToySlips("a"), 1)

    with pytest.raises(Refused, match="a: wanted 1, found None after setting it"):
        ledger.carry_out(slips, OTHER, key="k")
    assert [entry.state for entry in ledger.history()] == ["undone"]


def test_a_step_repeated_word_for_word_is_the_same_step_and_another_use_of_its_name_is_refused(ledger: Ledger) -> None:
    @steps("repeats", holds=["{stage}/release"])
    def repeats(op: Operation, plan: ToyPlan) -> None:
        assert op.ensure("a", ToyFile("a"), 1) == op.ensure("a", ToyFile("a"), 1) == 1
        with pytest.raises(Refused, match="step a of k is recorded as ToyFile to 1, now it says ToyFile to 2"):
            op.ensure("a", ToyFile("a"), 2)

    assert ledger.carry_out(repeats, OTHER, key="k").state == "done"


def test_an_outage_in_a_write_is_undone_and_a_retry_of_the_same_step_goes_on(world: ToyWorld, ledger: Ledger) -> None:
    class ToyShaky(ToyFile):
        def write(self, world: ToyWorld, want: JsonValue) -> None:
            super().write(world, want)
            if len(world.written()) == 1:
                raise Unreachable("the answer broke off")

    @steps("shaky", holds=["{stage}/release"])
    def shaky(op: Operation, plan: ToyPlan) -> None:
        with pytest.raises(Unreachable):
            op.ensure("a", ToyShaky("a"), 1)
        assert op.ensure("a", ToyShaky("a"), 1) == 1

    assert ledger.carry_out(shaky, OTHER, key="k").state == "done"
    assert len(world.written()) == 1


def test_what_could_not_be_undone_is_told_with_both_causes_and_never_as_what_was_undone(
    world: ToyWorld, ledger: Ledger
) -> None:
    class TakenBack(NotDone):
        pass

    class ToyStuck(ToyFile):
        def write(self, world: ToyWorld, want: JsonValue) -> None:
            if want != 1:
                raise Unreachable("the old one does not start")
            super().write(world, want)

    @steps("gets stuck", holds=["{stage}/release"])
    def stuck(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyStuck("a"), 1)
        raise TakenBack("error rate")

    told = "error rate; it could not be undone yet: the old one does not start; reconcile tries again"
    with pytest.raises(Refused, match=f"^{told}$"):
        ledger.carry_out(stuck, OTHER, key="k")
    (entry,) = ledger.open()
    assert (entry.state, entry.trouble) == ("undoing", "the old one does not start")


def test_somebody_who_asks_to_stop_is_heard_before_the_commit(world: ToyWorld, ledger: Ledger) -> None:
    @steps("is asked to stop", holds=["{stage}/release"])
    def bake(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        assert toy_ledger(world).ask_to_stop("toy/release", "carol: failover") == ["k"]
        while True:
            op.still()

    with pytest.raises(Stopped, match="carol: failover"):
        ledger.carry_out(bake, OTHER, key="k")
    assert world.cells() == {}


def test_a_child_is_an_operation_of_its_own_that_outlives_its_parents_undo(world: ToyWorld, ledger: Ledger) -> None:
    with pytest.raises(Refused, match="error rate"):
        ledger.carry_out(toy_family, ToyPlan(bad=True), key="k")

    assert [(entry.key, entry.state) for entry in ledger.history()] == [("k/migrate", "done"), ("k", "undone")]
    assert world.cells() == {"schema": 2}


def test_a_child_takes_only_scopes_of_a_higher_rank(ledger: Ledger) -> None:
    @steps("upside down", holds=["{stage}/database/{database}"])
    def upside_down(op: Operation, plan: ToyPlan) -> None:
        op.child("release", toy_deploy, plan)

    with pytest.raises(Refused, match="cannot take toy/release: its parent holds toy/database/live"):
        ledger.carry_out(upside_down, ToyPlan(), key="k")


def test_a_key_of_another_kind_is_refused(ledger: Ledger) -> None:
    ledger.carry_out(toy_moves, OTHER, key="k")

    with pytest.raises(Refused, match="the key k belongs to a toy moves, not to a toy migrate"):
        ledger.carry_out(toy_migrate, OTHER, key="k")


def test_who_lost_the_operation_touches_nothing_more(world: ToyWorld, ledger: Ledger) -> None:
    @steps("is taken away", holds=["{stage}/release"])
    def taken(op: Operation, plan: ToyPlan) -> None:
        op.ensure("a", ToyFile("a"), 1)
        with world.address.connect() as connection:
            connection.execute("update ledger.operation set token = nextval('ledger.token') where id = %s", [op.id])
        op.ensure("b", ToyFile("b"), 1)

    with pytest.raises(Fenced):
        ledger.carry_out(taken, OTHER, key="k")
    assert world.cells() == {"a": 1}
    assert [entry.state for entry in ledger.open()] == ["acting"]


def test_only_a_list_that_may_runs_without_a_ledger(world: ToyWorld) -> None:
    ToyFile("a").write(world, 1)

    with pytest.raises(Refused, match="--alone insists"):
        carry_out_alone(toy_moves, MOVES, world)
    settled = carry_out_alone(toy_prune, OTHER, world)
    with pytest.raises(Refused, match="error rate"):
        carry_out_alone(toy_moves, ToyPlan(moves=(("b", 1),), bad=True), world, insist=True)

    assert (settled.operation, settled.token, settled.state) == (None, None, "done")
    assert world.cells() == {}


def test_without_an_answer_from_the_ledger_nothing_begins(world: ToyWorld) -> None:
    away = Ledger(Address("/nowhere", 1, "postgres", "", "ledger"), world)

    with pytest.raises(Unreachable):
        away.carry_out(toy_moves, MOVES, key="k")
    assert world.written() == []
