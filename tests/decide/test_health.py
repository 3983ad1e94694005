from datetime import datetime, timedelta

from flows.catalogue.grades import Graded
from flows.catalogue.health import health
from flows.verdict import Verdict
from tests.decide.builders import at, graded

NOW = at("11-24 02:30")
HOUR = timedelta(hours=1)


def look(*backups: Graded, ticked: datetime | None = NOW - timedelta(seconds=4)) -> Verdict:
    return health(backups, rpo=HOUR, ticked=ticked, now=NOW)


def test_a_young_backup_and_a_living_reconcile_are_healthy() -> None:
    verdict = look(graded("11-24 02:00"))
    assert verdict.go
    assert verdict.evidence == (
        "the newest backup, 11-24 02:00 daily, is 30 min old, 1 h are allowed",
        "the newest proven backup, 11-24 02:00 daily, is 30 min old",
        "reconcile ticked 4.0 s ago",
    )


def test_an_old_backup_breaks_the_rpo() -> None:
    verdict = look(graded("11-24 01:00"))
    assert not verdict.go
    assert verdict.reason == (
        "the newest backup, 11-24 01:00 daily, is 1 h 30 min old, more than the 1 h that are allowed (RPO)"
    )


def test_a_backup_of_exactly_the_rpos_age_is_still_allowed() -> None:
    assert look(graded("11-24 01:30")).go


def test_failed_disproven_and_future_ones_do_not_count() -> None:
    bad = [graded("11-24 02:00", grade="failed"), graded("11-24 02:10", grade="disproven"), graded("11-25 02:00")]
    assert look(*bad).reason == "there is no backup"


def test_an_unproven_one_counts_for_the_rpo_and_the_missing_proof_is_said() -> None:
    verdict = look(graded("11-24 02:00", grade="unproven"))
    assert verdict.go
    assert "no backup is proven yet" in verdict.evidence


def test_a_silent_reconcile_is_named() -> None:
    verdict = look(graded("11-24 02:00"), ticked=NOW - timedelta(minutes=5))
    assert (verdict.go, verdict.reason) == (False, "reconcile is silent for 5 min: is a worker running?")


def test_all_that_is_broken_is_named() -> None:
    assert look(ticked=None).reason == "there is no backup; reconcile has never run: start a worker"


def test_a_backup_that_is_not_what_was_stored_fails_it() -> None:
    sentence = "backup x is not what was stored: 1 byte is another"
    verdict = health([graded("11-24 02:00")], rpo=HOUR, ticked=NOW - timedelta(seconds=4), now=NOW, wrong=(sentence,))
    assert (verdict.go, verdict.reason) == (False, sentence)
