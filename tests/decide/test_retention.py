"""Retention: the worked cases of the design, and the reasons to prune nothing at all."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest

from flows.catalogue.grades import Graded
from flows.prune.retention import Circumstances, Row, next_expiry, plan, prune_plan
from flows.records import Kind
from flows.stage import Retention
from tests.decide.builders import at, graded

POLICY = Retention()
ONE = POLICY.model_copy(update={"keep_last": 1})
NOW = at("11-24 02:05")


def rows_of(backups: Sequence[Graded], now: datetime = NOW, policy: Retention = POLICY) -> dict[str, Row]:
    return {row.backup.id: row for row in plan(backups, policy, now)}


def kept(backups: Sequence[Graded], now: datetime = NOW, policy: Retention = POLICY) -> set[str]:
    return {name for name, row in rows_of(backups, now, policy).items() if row.keep}


CASE_A = [
    *(graded(f"11-{day} 02:00") for day in range(15, 25)),
    graded("11-22 03:00", "weekly"),
    graded("11-15 03:00", "weekly"),
    graded("11-01 04:00", "monthly"),
    graded("10-25 03:00", "weekly"),
    graded("2025-11-25T02:00"),
    graded("2025-11-24T01:00"),
]
NO_HOURLY = POLICY.model_copy(update={"hourly": timedelta(0), "keep_last": 1})


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        *((f"11-{day} 02:00 daily", {f"daily 2026-11-{day}"}) for day in (18, 19, 20, 21, 23)),
        ("11-24 02:00 daily", {"daily 2026-11-24", "weekly 2026-W48", "last proven", "last 1"}),
        ("11-22 02:00 daily", None),
        ("11-22 03:00 weekly", {"daily 2026-11-22", "weekly 2026-W47"}),
        ("11-16 02:00 daily", None),
        ("11-17 02:00 daily", None),
        ("11-15 02:00 daily", None),
        ("11-15 03:00 weekly", {"weekly 2026-W46"}),
        ("11-01 04:00 monthly", {"weekly 2026-W44", "monthly 2026-11"}),
        ("10-25 03:00 weekly", {"weekly 2026-W43", "monthly 2026-10"}),
        ("2025-11-25T02:00 daily", {"monthly 2025-11"}),
        ("2025-11-24T01:00 daily", None),
    ],
)
def test_case_a_a_year_of_dailies_weeklies_and_monthlies(name: str, reasons: set[str] | None) -> None:
    row = rows_of(CASE_A, policy=NO_HOURLY)[name]
    assert row.keep is (reasons is not None)
    assert set(row.reasons) == (reasons or {"past every rule"})


CASE_B = [
    graded("11-21 02:00", grade="unproven"),
    graded("11-21 14:00", "on-demand"),
    graded("11-22 02:00", grade="disproven", judged_at=at("11-22 02:20")),
    graded("11-23 02:00", grade="unproven"),
    graded("11-24 02:00", grade="pending"),
    graded("12-30 02:00"),
]


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("11-21 02:00 daily", None),
        ("11-21 14:00 on-demand", {"daily 2026-11-21", "weekly 2026-W47", "monthly 2026-11", "extra", "last proven"}),
        ("11-22 02:00 daily", {"evidence until 2026-11-29T02:20Z"}),
        ("11-23 02:00 daily", {"hourly 2026-11-23T02Z", "daily 2026-11-23", "weekly 2026-W48"}),
        ("11-24 02:00 daily", {"pending: its proof is not through", "last 1"}),
        ("12-30 02:00 daily", {"future: stamped later than now"}),
    ],
)
def test_case_b_grades(name: str, reasons: set[str] | None) -> None:
    assert set(rows_of(CASE_B, policy=ONE)[name].reasons) == (reasons or {"past every rule"})


def test_case_c_an_outage_loses_nothing() -> None:
    august = [graded("08-01 04:00", "monthly"), graded("08-02 03:00", "weekly"), graded("08-03 02:00")]
    assert kept(august, policy=ONE) == {backup.id for backup in august}


def test_case_d_the_years_end() -> None:
    backups = [graded(f"2026-12-{day}T02:00") for day in (28, 29, 30, 31)]
    backups += [graded("2027-01-01T04:00", "monthly"), graded("2027-01-02T02:00"), graded("2027-01-03T03:00", "weekly")]
    backups.append(graded("2027-01-04T02:00"))
    rows = rows_of(backups, at("2027-01-04T02:05"), NO_HOURLY)
    assert "weekly 2026-W53" in rows["2027-01-03T03:00 weekly"].reasons
    assert set(rows["2026-12-31T02:00 daily"].reasons) == {"daily 2026-12-31", "monthly 2026-12"}
    assert set(rows["2027-01-01T04:00 monthly"].reasons) == {"daily 2027-01-01", "monthly 2027-01"}
    assert not rows["2026-12-28T02:00 daily"].keep


END = at("2026-10-05T02:00")


@cache
def full_schedule(end: datetime = END, days: int = 430) -> list[Graded]:
    """Hourly, daily, weekly on Sunday, monthly on the 1st, all proven."""
    hours = [end - timedelta(hours=hour) for hour in range(days * 24)]
    hourly: list[tuple[datetime, Kind]] = [(hour, "frequent") for hour in hours]
    daily: list[tuple[datetime, Kind]] = [(hour, "daily") for hour in hours if hour.hour == 2]
    weekly: list[tuple[datetime, Kind]] = [(at, "weekly") for at in hours if at.hour == 3 and at.isoweekday() == 7]
    monthly: list[tuple[datetime, Kind]] = [(hour, "monthly") for hour in hours if hour.hour == 4 and hour.day == 1]
    return sorted(
        (Graded(f"{hour:%Y%m%dT%H} {kind}", hour, kind, "proven") for hour, kind in hourly + daily + weekly + monthly),
        key=lambda backup: (backup.at, backup.id),
    )


def test_case_e_a_full_schedule_of_430_days_leaves_69_also_when_pruned_after_every_backup() -> None:
    left = [row.backup for row in plan(full_schedule(), POLICY, END) if row.keep]
    assert len(left) == 69
    assert (END - left[0].at).days == 337
    assert _pruned_after_every_backup(full_schedule(), since=END - timedelta(days=4)) == left


def _pruned_after_every_backup(backups: Sequence[Graded], since: datetime) -> list[Graded]:
    left = [row.backup for row in plan([one for one in backups if one.at < since], POLICY, since) if row.keep]
    for backup in (one for one in backups if one.at >= since):
        left = [row.backup for row in plan([*left, backup], POLICY, backup.at) if row.keep]
    return left


def test_one_of_two_frequent_ones_an_hour_stays() -> None:
    backups = [graded(f"11-24 01:{minute}", "frequent") for minute in (15, 45)]
    backups += [graded(f"11-24 00:{minute}", "frequent") for minute in (15, 45)]
    assert kept(backups, policy=ONE) == {"11-24 01:45 frequent", "11-24 00:45 frequent"}


def test_an_unproven_backup_never_displaces_a_proven_one_of_its_day() -> None:
    proven, later = graded("11-20 02:00"), graded("11-20 12:00", grade="unproven")
    assert kept([proven, later, *CASE_A[-4:], graded("11-24 02:00")], policy=NO_HOURLY) >= {proven.id}


def test_evidence_goes_seven_days_after_the_verdict_and_not_before_something_proven_is_newer() -> None:
    bad = graded("11-10 02:00", grade="disproven", judged_at=at("11-17 02:05"))
    assert kept([bad, graded("11-12 02:00")], NOW - timedelta(seconds=1)) >= {bad.id}
    assert bad.id not in kept([bad, graded("11-12 02:00")], NOW)
    assert bad.id in kept([bad, graded("11-09 02:00")], at("12-24 02:00"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"held": True}, "held"), ({"locked_until": at("11-24 02:06")}, "locked until 2026-11-24T02:06Z")],
)
def test_what_is_held_or_locked_stays(more: dict[str, Any], reason: str) -> None:
    old = replace(graded("2024-01-01T02:00"), **more)
    assert rows_of([old, *CASE_A])[old.id].reasons == (reason,)


def test_a_lock_that_is_over_holds_nothing() -> None:
    old = graded("2024-01-01T02:00", locked_until=NOW)
    assert old.id not in kept([old, *CASE_A])


def test_what_an_open_restore_reads_stays() -> None:
    old = graded("2024-01-01T02:00")
    rows = plan([old, *CASE_A], POLICY, NOW, restoring={old.id})
    assert rows[0].reasons == ("read by a restore that is open or may still be swapped in",)


def verdict_of(backups: Sequence[Graded], now: datetime = NOW, **around: Any) -> tuple[bool, str]:
    pruning = prune_plan(backups, POLICY, now, Circumstances(**around))
    assert pruning.verdict.go or not pruning.drops
    return pruning.verdict.go, pruning.verdict.reason


def test_a_healthy_catalogue_is_pruned() -> None:
    pruning = prune_plan(CASE_A, POLICY, NOW)
    assert pruning.verdict.reason == "drop 5 of 16 backups, 11 stay"
    assert [backup.id for backup in pruning.drops][:2] == ["2025-11-24T01:00 daily", "11-15 02:00 daily"]


def test_nothing_to_drop_is_no_refusal() -> None:
    assert verdict_of([graded("11-24 02:00")]) == (True, "nothing to drop: all 1 stay")
    assert verdict_of([]) == (True, "nothing to drop: all 0 stay")


@pytest.mark.parametrize(
    ("backups", "around", "sentence"),
    [
        ([*CASE_A, graded("11-24 02:01", grade="failed")], {}, "the newest backup, 11-24 02:01 daily, is failed"),
        ([*CASE_A, graded("11-24 02:01", grade="disproven")], {}, "the newest backup, 11-24 02:01 daily, is disproven"),
        ([*CASE_A, graded("11-24 02:06")], {}, "11-24 02:06 daily was made later: look at the clocks"),
        (CASE_A, {"unreadable": ("x/manifest.json",)}, "the catalogue could not be read whole: x/manifest.json"),
        (CASE_A, {"wrong": ("backup x is not what was stored: 1 byte",)}, "backup x is not what was stored: 1 byte"),
        ([replace(backup, grade="unproven") for backup in CASE_A], {}, "no backup is proven, though the policy asks"),
        ([graded("11-23 02:00", rows=100), graded("11-24 02:00", rows=69)], {}, "69 rows, 11-23 02:00 daily had 100"),
        ([graded("11-23 02:00", stored_bytes=100), graded("11-24 02:00")], {}, "has 0 stored bytes"),
        ([graded(f"2024-01-{day}T02:00") for day in range(10, 30)] + CASE_A[:6], {}, "of 26 backups would go at once"),
    ],
)  # fmt: skip
def test_nothing_at_all_is_pruned(backups: list[Graded], around: dict[str, Any], sentence: str) -> None:
    go, reason = verdict_of(backups, **around)
    assert not go
    assert reason.startswith("nothing is pruned: ")
    assert sentence in reason


def test_a_loss_of_exactly_the_allowed_share_is_no_shrinkage() -> None:
    assert verdict_of([graded("11-23 02:00", rows=100), graded("11-24 02:00", rows=70)])[0]


def test_without_a_policy_of_proofs_unproven_ones_are_pruned_too() -> None:
    assert verdict_of([replace(backup, grade="unproven") for backup in CASE_A], wants_proofs=False)[0]


def test_really_overrides_the_share_and_nothing_else() -> None:
    many = [graded(f"2024-01-{day}T02:00") for day in range(10, 30)] + CASE_A[:6]
    assert verdict_of(many, really=True)[0]
    assert not verdict_of([*many, graded("11-24 02:01", grade="failed")], really=True)[0]


def test_failed_ones_that_hold_nothing_do_not_count_as_going_at_once() -> None:
    """A month without the database: a failed one every half hour, all of them past their week."""
    outage = [graded(f"10-{day:02} {hour:02}:00", grade="failed") for day in range(1, 29) for hour in range(24)]
    assert verdict_of([*outage, *CASE_A])[0]


def test_a_clock_set_back_prunes_nothing() -> None:
    assert not verdict_of(CASE_A, NOW - timedelta(days=2))[0]


def test_the_next_to_expire_is_the_one_whose_last_rule_ends_first() -> None:
    rows = rows_of([graded("11-19 02:00"), graded("11-21 02:00"), graded("11-24 02:00")], policy=NO_HOURLY)
    first = next_expiry(rows.values())
    assert first is not None
    assert first.backup.id == "11-19 02:00 daily"  # its day's alone; the 21st is its week's too
    assert first.until == at("11-26 02:00")


def test_nothing_expires_while_rules_without_an_end_keep_everything() -> None:
    assert next_expiry(rows_of([graded("11-24 02:00")], policy=NO_HOURLY).values()) is None
