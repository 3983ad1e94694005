from datetime import datetime, timedelta

from flows.catalogue.grades import Graded
from flows.catalogue.health import health
from flows.verdict import Verdict
from tests.decide.builders import at, graded

NOW = at("11-24 02:30")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def look(
    *backups: Graded,
    ticked: datetime | None = NOW - timedelta(seconds=4),
    proof_age: timedelta | None = 2 * DAY,
    wrong: tuple[str, ...] = (),
) -> Verdict:
    return health(backups, rpo=HOUR, proof_age=proof_age, ticked=ticked, now=NOW, wrong=wrong)


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


PENDING = [graded(time, "frequent", "pending") for time in ("11-23 02:00", "11-24 02:00")]


def test_proofs_that_were_asked_for_and_are_not_through_are_counted_in_the_runs_sentence() -> None:
    verdict = look(graded("11-22 02:30"), *PENDING)
    assert verdict.go
    assert verdict.reason == (
        "the newest backup, 11-24 02:00 frequent, is 30 min old, 1 h are allowed; "
        "the newest proven backup, 11-22 02:30 daily, is 2 d old, 2 asked for and not through"
    )


def test_proofs_that_stay_away_break_the_promise() -> None:
    verdict = look(graded("11-12 02:30"), *PENDING)
    assert (verdict.go, verdict.reason) == (
        False,
        "no proof for 12 d, 2 asked for and not through (2 d are allowed): does a worker serve queue restore?",
    )
    nobody_asked = look(graded("11-12 02:30"), graded("11-24 02:00", grade="unproven")).reason
    assert nobody_asked.startswith("no proof for 12 d, none asked for")


def test_without_any_proof_the_time_runs_from_the_oldest_backup() -> None:
    assert look(*PENDING).go
    old = graded("11-21 02:30", grade="pending")
    assert look(old, *PENDING).reason.startswith("no proof for 3 d, 3 asked for and not through")
    assert look(graded("11-01 02:00", grade="failed"), *PENDING).go


def test_a_stage_that_proves_none_owes_no_proof() -> None:
    assert look(graded("11-01 02:00"), *PENDING, proof_age=None).go


def test_a_silent_reconcile_is_named() -> None:
    verdict = look(graded("11-24 02:00"), ticked=NOW - timedelta(minutes=5))
    assert (verdict.go, verdict.reason) == (False, "reconcile is silent for 5 min: is a worker running?")


def test_all_that_is_broken_is_named() -> None:
    assert look(ticked=None).reason == "there is no backup; reconcile has never run: start a worker"


def test_a_backup_that_is_not_what_was_stored_fails_it() -> None:
    sentence = "backup x is not what was stored: 1 byte is another"
    verdict = look(graded("11-24 02:00"), wrong=(sentence,))
    assert (verdict.go, verdict.reason) == (False, sentence)
