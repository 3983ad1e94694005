"""Whether schedules keep an RPO is arithmetic on their starts and on how long backups took."""

from datetime import UTC, datetime, timedelta

import pytest

from deployments.objectives import keeps_rpo, longest_gap, percentile

NOW = datetime(2026, 11, 24, 10, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)


def minutes(*numbers: int) -> list[timedelta]:
    return [timedelta(minutes=number) for number in numbers]


@pytest.mark.parametrize(
    ("crons", "gap"),
    [
        (["15,45 * * * *"], timedelta(minutes=30)),
        (["15,45 * * * *", "0 2 * * *"], timedelta(minutes=30)),
        (["0 2 * * *"], timedelta(days=1)),
        (["0 2 * * *", "0 3 * * 0"], timedelta(days=1)),
        (["0 9-17 * * *"], timedelta(hours=16)),
        (["0 4 1 * *"], timedelta(days=31)),
    ],
)
def test_the_longest_gap_is_that_of_all_schedules_together(crons: list[str], gap: timedelta) -> None:
    assert longest_gap(crons, NOW) == gap


def test_half_hourly_backups_keep_an_hour_while_they_take_less_than_half_of_one() -> None:
    verdict = keeps_rpo(["15,45 * * * *"], minutes(*[5] * 96, *[50] * 4), HOUR, NOW)
    assert verdict.go
    assert verdict.reason == (
        "backups start at most 30m apart, 95 % of 100 backups took at most 5m: at worst 35m are lost, the RPO is 1h"
    )


def test_slow_backups_break_it_though_the_schedule_alone_would_not() -> None:
    verdict = keeps_rpo(["15,45 * * * *"], minutes(5, 31, 33), HOUR, NOW)
    assert not verdict.go
    assert "at worst 1h 3m are lost, more than the RPO of 1h: schedule a more frequent kind" in verdict.reason


def test_daily_backups_alone_cannot_keep_an_hour() -> None:
    assert not keeps_rpo(["0 2 * * *"], [], HOUR, NOW).go


def test_a_stage_without_schedules_says_whom_it_rests_on() -> None:
    assert keeps_rpo([], [], HOUR, NOW).reason == "no backup is scheduled: the RPO of 1h rests on people"


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(minutes(*range(1, 101)), 0.95) == timedelta(minutes=95)
    assert percentile(minutes(7), 0.95) == timedelta(minutes=7)
    assert percentile([], 0.95) == timedelta(0)
