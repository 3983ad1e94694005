"""Whose silence means death: who was heard once and no more, while our own heartbeats kept coming."""

from uuid import UUID, uuid4

from flows.reconcile.heartbeats import SILENT, Heard

OWN, RUN = uuid4(), uuid4()


def heard(*looks: dict[UUID, UUID]) -> list[UUID]:
    """Who is silent after these looks, our own newest heartbeat among each."""
    found = Heard()
    for newest in looks:
        found = found.and_now(OWN, newest)
    return found.silent


def test_a_run_that_falls_silent_while_ours_are_heard_is_dead() -> None:
    last = uuid4()
    looks = [{OWN: uuid4(), RUN: last} for _ in range(SILENT + 1)]
    assert heard(*looks) == [RUN]
    assert heard(*looks[1:]) == []


def test_a_run_that_is_heard_again_lives() -> None:
    looks = [{OWN: uuid4(), RUN: last} for last in [uuid4()] * SILENT + [uuid4()] * SILENT]
    assert heard(*looks) == []


def test_where_our_own_are_not_heard_nobody_is_dead() -> None:
    mine, last = uuid4(), uuid4()
    assert heard(*[{OWN: mine, RUN: last}] * 100) == []
    assert heard(*[{RUN: last}] * 100) == []


def test_a_run_that_was_never_heard_is_not_judged() -> None:
    assert heard(*[{OWN: uuid4()} for _ in range(100)]) == []


def test_a_run_that_ended_is_forgotten() -> None:
    last = uuid4()
    looks = [{OWN: uuid4(), RUN: last} for _ in range(SILENT)]
    assert heard(*looks, {OWN: uuid4()}, {OWN: uuid4(), RUN: last}) == []
