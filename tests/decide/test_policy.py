import pytest

from flows.backup.policy import wants_proof
from flows.records import Backup
from tests.decide.builders import at, backup

NEWEST = backup("20261124T021500Z-frequent-000000")


def history(*asked: bool, kind: str = "frequent") -> list[Backup]:
    """Earlier ones, newest first, an hour apart; true: a proof was asked for."""
    names = [f"20261123T{23 - place}4500Z-{kind}-{place:06}" for place in range(len(asked))]
    times = [at("11-24 00:00") if one else None for one in asked]
    return [backup(name, proof_asked_at=time) for name, time in zip(names, times, strict=True)]


def test_every_backup_of_such_a_kind_is_proven() -> None:
    assert wants_proof(NEWEST, history(True), "every").go


def test_one_of_a_kind_that_is_never_proven_is_not() -> None:
    verdict = wants_proof(NEWEST, [], "never")
    assert (verdict.go, verdict.reason) == (False, "a frequent backup is never proven")


@pytest.mark.parametrize(
    ("asked", "go"),
    [((), True), ((False,), True), ((True,), False), ((False, True), False), ((False, False, True), True),
     ((False, False, False, True), True), ((True, False, False, True), False)],
)  # fmt: skip
def test_every_third_is_proven_when_two_went_by_without(asked: tuple[bool, ...], go: bool) -> None:
    assert wants_proof(NEWEST, history(*asked), "every 3rd").go is go


def test_the_count_is_said() -> None:
    assert wants_proof(NEWEST, history(False, True), "every 12th").reason == (
        "every 12th frequent backup is proven; this is not it, number 2"
    )


def test_other_kinds_failed_ones_and_itself_do_not_count() -> None:
    failed = backup("20261123T234500Z-frequent-zzzzzz", state="failed", error="x", proof_asked_at=at("11-24 00:00"))
    mine = NEWEST.model_copy(update={"proof_asked_at": at("11-24 02:16")})
    assert wants_proof(NEWEST, [failed, mine, *history(True, kind="daily")], "every 2nd").go


def test_the_order_of_the_history_does_not_matter() -> None:
    earlier = history(False, True, False)
    assert wants_proof(NEWEST, earlier, "every 3rd") == wants_proof(NEWEST, earlier[::-1], "every 3rd")


def test_one_a_week_is_proven_and_weeks_are_iso_weeks_across_the_year() -> None:
    thursday = backup("20261231T020000Z-daily-000001", proof_asked_at=at("2026-12-31T02:05"))
    assert not wants_proof(backup("20270101T020000Z-daily-000002"), [thursday], "weekly").go
    assert wants_proof(backup("20270104T020000Z-daily-000003"), [thursday], "weekly").go


def test_a_failed_backup_is_never_proven() -> None:
    assert not wants_proof(backup(state="failed", error="x"), [], "every").go


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="no policy 'sometimes'"):
        wants_proof(NEWEST, [], "sometimes")
