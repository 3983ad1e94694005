import pytest

from flows.catalogue.choose import choose
from flows.catalogue.grades import Graded
from flows.records import Grade, backup_id
from tests.decide.builders import at


def made(time: str, grade: Grade = "proven") -> Graded:
    return Graded(backup_id(at(time), "daily", "k3v9q2"), at(time), "daily", grade)


FIRST, SECOND, THIRD = made("11-01 02:00"), made("11-02 02:00"), made("11-03 02:00", "unproven")
BROKEN = made("11-04 02:00", "disproven")
ALL = [THIRD, FIRST, BROKEN, SECOND]


def test_latest_proven_is_the_newest_proven_one_and_says_what_is_newer() -> None:
    choice = choose("latest-proven", ALL)
    assert choice.backup == SECOND
    assert choice.reason == f"{SECOND.id}: the newest proven backup; 1 newer are not proven, the newest {THIRD.id}"


def test_without_a_proven_one_the_newest_is_named_for_a_person_to_decide() -> None:
    choice = choose("latest-proven", [THIRD])
    assert choice.backup is None
    assert choice.reason.startswith("no backup is proven: prove one, or name one by its id; the newest is 20261103T")


def test_an_empty_catalogue_is_said() -> None:
    assert choose("latest-proven", []).reason == "no backup at all: the catalogue is empty"


def test_an_id_means_that_backup() -> None:
    assert choose(THIRD.id, ALL).backup == THIRD


def test_an_unknown_id_is_refused_with_the_nearest() -> None:
    choice = choose(FIRST.id.replace("k3v9q2", "k3v9q3"), ALL)
    assert choice.backup is None
    assert choice.reason == (
        f"no backup 20261101T020000Z-daily-k3v9q3: 4 are known, the newest is {BROKEN.id}; did you mean {FIRST.id}?"
    )


def test_a_disproven_one_is_not_restored_even_by_its_id() -> None:
    assert choose(BROKEN.id, ALL).backup is None
    assert choose(BROKEN.id, ALL).reason == f"{BROKEN.id} (disproven): choose another"


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("2026-11-01T02:00Z", FIRST),
        ("2026-11-02T01:59:59Z", FIRST),
        ("2026-11-02T02:00:00+00:00", SECOND),
        ("2026-11-02T11:00+09:00", SECOND),
        ("2026-11-02", FIRST),
        ("2026-11-03T12:00Z", THIRD),
        ("2027-01-01T00:00Z", THIRD),
    ],
)
def test_a_time_means_the_newest_usable_one_not_later(which: str, expected: Graded) -> None:
    assert choose(which, ALL).backup == expected


def test_a_time_without_a_zone_is_taken_as_utc_and_that_is_said() -> None:
    choice = choose("2026-11-02T02:00", ALL)
    assert choice.backup == SECOND
    assert "of 2026-11-02T02:00Z, taken as UTC or before" in choice.reason


def test_the_proven_one_before_an_unproven_one_is_named_but_not_chosen() -> None:
    choice = choose("2026-11-03T12:00Z", ALL)
    assert choice.reason.endswith(f"with the state of 2026-11-03T02:00Z; the newest proven one before is {SECOND.id}")


def test_a_time_before_the_first_backup_is_refused_with_the_first() -> None:
    choice = choose("2026-10-31T02:00Z", ALL)
    assert choice.backup is None
    assert choice.reason == f"no backup before 2026-10-31T02:00Z: the first is {FIRST.id}, of 2026-11-01T02:00Z"


def test_a_time_without_any_usable_backup_is_refused() -> None:
    assert choose("2026-11-05", [BROKEN]).reason.endswith("no complete one is known")


@pytest.mark.parametrize("which", ["", "newest", "2026-13-01", "latest_proven", "../x", FIRST.id + "x"])
def test_anything_else_is_refused_with_the_forms_that_are_known(which: str) -> None:
    choice = choose(which, ALL)
    assert choice.backup is None
    assert "expected an id, latest-proven, or a time such as 2026-11-24T02:00Z" in choice.reason


def test_a_misspelt_word_is_answered_with_the_right_one() -> None:
    assert choose("latest_proven", ALL).reason.endswith("did you mean latest-proven?")
