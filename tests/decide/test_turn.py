from flows.catalogue.grades import Graded
from flows.prove.turn import newest_unproven
from flows.records import KINDS
from tests.decide.builders import graded

NEW, OLD = graded("11-24 02:00", grade="unproven"), graded("11-23 02:00", grade="unproven")
DEAD = graded("11-20 02:00", grade="pending")
PROVEN, BAD = graded("11-25 02:00"), graded("11-26 02:00", grade="disproven")


def turn(*backups: Graded, tried: tuple[str, ...] = ()) -> str | None:
    return newest_unproven(backups, tried, set(KINDS) - {"before-shutdown"})


def test_a_proof_that_was_asked_for_and_died_goes_first_the_newest_of_them() -> None:
    assert turn(NEW, DEAD, OLD, PROVEN, BAD) == DEAD.id
    assert turn(graded("11-19 02:00", grade="pending"), DEAD) == DEAD.id


def test_then_the_newest_without_any_proof() -> None:
    assert turn(OLD, NEW, PROVEN, BAD) == NEW.id
    assert turn(OLD, NEW, tried=(NEW.id,)) == OLD.id


def test_a_kind_that_is_never_proven_has_no_turn_unless_somebody_asked() -> None:
    assert turn(graded("11-27 02:00", "before-shutdown", "unproven"), OLD) == OLD.id
    assert turn(asked := graded("11-27 02:00", "before-shutdown", "pending")) == asked.id


def test_nothing_is_left_to_prove() -> None:
    assert turn(PROVEN, BAD, graded("11-27 02:00", grade="failed")) is None
