"""What a verification is due for, and what a failed one means until a good one answers it."""

from datetime import timedelta

from flows.catalogue.accusations import accused, not_as_stored
from flows.records import Check
from flows.verify.ladder import READ_ALL, due
from tests.decide.builders import at, backup

ID = "20261124T020000Z-daily-k3v9q2"
NOW = at("11-30 06:30")


def check(rung: int, days_ago: float, *, ok: bool = True, of: str = ID) -> Check:
    return Check(backup=of, rung=rung, at=NOW - timedelta(days=days_ago), ok=ok, sentence=f"{of}: it says so")


def rung(*checks: Check) -> int | None:
    found = due([backup(ID)], checks, NOW)
    return found[0].rung if found else None


def test_everything_is_read_once_and_monthly_and_looked_at_daily() -> None:
    assert rung() == READ_ALL
    assert rung(check(READ_ALL, 31), check(0, 0.5)) == READ_ALL
    assert rung(check(READ_ALL, 2)) == 0
    assert rung(check(READ_ALL, 2), check(0, 0.5)) is None


def test_a_failed_check_stands_until_a_good_one_of_its_rung_or_higher() -> None:
    failed = check(READ_ALL, 2, ok=False)
    assert not_as_stored([check(READ_ALL, 3), failed]) == [failed]
    assert not_as_stored([failed, check(0, 1)]) == [failed]
    assert not_as_stored([failed, check(READ_ALL, 1)]) == []
    assert not_as_stored([failed, check(READ_ALL, 1, of="20261124T030000Z-daily-k3v9q2")]) == [failed]
    assert not_as_stored([check(0, 2, ok=False), check(READ_ALL, 1)]) == []


def test_the_newest_of_several_failed_checks_speaks() -> None:
    first, second = check(0, 2, ok=False), check(0, 1, ok=False)
    assert not_as_stored([second, first]) == [second]
    assert accused(second) == f"backup {ID} is not what was stored: it says so"


def test_a_failed_rung_is_due_again_at_once() -> None:
    good = check(READ_ALL, 3)
    assert rung(good, check(READ_ALL, 0.1, ok=False), check(0, 0.05)) == READ_ALL
    assert rung(good, check(0, 0.5), check(0, 0.1, ok=False)) == 0
