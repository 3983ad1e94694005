"""What holds in every retention plan, on random histories."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.catalogue.grades import Graded
from flows.prune.retention import Circumstances, plan, prune_plan
from flows.records import KINDS, Grade, Kind
from flows.stage import Retention
from tests.decide.builders import at

POLICY = Retention()
NOW = at("11-24 02:05")
FEW = settings(max_examples=35, deadline=None)
GRADES: tuple[Grade, ...] = ("proven", "proven", "proven", "unproven", "pending", "disproven", "failed")
MINUTES = 400 * 24 * 60


@st.composite
def histories(draw: st.DrawFn, most: int = 24) -> list[Graded]:
    """Backups of the last 400 days, crowded near the end, each with its own time."""
    recent, old = st.integers(0, 9 * 24 * 60), st.integers(0, MINUTES)
    ages = draw(st.lists(st.one_of(recent, old), max_size=most, unique=True))
    return [_backup(draw, age) for age in ages]


def _backup(draw: st.DrawFn, age: int) -> Graded:
    time = NOW - timedelta(minutes=age)
    grade = draw(st.sampled_from(GRADES))
    kind: Kind = draw(st.sampled_from(KINDS))
    judged = time + timedelta(hours=1) if grade in {"disproven", "failed"} else None
    held = draw(st.integers(0, 19)) == 0
    return Graded(f"{age:06} {kind}", time, kind, grade, judged_at=judged, held=held)


def kept(backups: Sequence[Graded], policy: Retention = POLICY) -> set[str]:
    return {row.backup.id for row in plan(backups, policy, NOW) if row.keep}


def _kept_at_its_end(ordered: Sequence[Graded]) -> set[str]:
    return {row.backup.id for row in plan(ordered, POLICY, ordered[-1].at) if row.keep}


def usable(backups: Sequence[Graded]) -> list[Graded]:
    return sorted((backup for backup in backups if backup.usable), key=lambda backup: (backup.at, backup.id))


@FEW
@given(histories())
def test_what_must_stay_is_in_every_plan(backups: list[Graded]) -> None:
    proven = [backup for backup in usable(backups) if backup.grade == "proven"]
    must = {backup.id for backup in [*proven[-1:], *usable(backups)[-3:]]}
    must |= {backup.id for backup in backups if backup.held or backup.grade == "pending"}
    assert must <= kept(backups)


@FEW
@given(histories())
def test_a_plan_of_what_was_kept_keeps_all_of_it(backups: list[Graded]) -> None:
    left = [row.backup for row in plan(backups, POLICY, NOW) if row.keep]
    assert kept(left) == {backup.id for backup in left}


@FEW
@given(histories())
def test_adding_a_newer_backup_never_revives_a_dropped_one(backups: list[Graded]) -> None:
    ordered = sorted(backups, key=lambda backup: backup.at)
    for newest in range(1, len(ordered)):
        before = ordered[:newest]
        dropped = {backup.id for backup in before} - _kept_at_its_end(before)
        assert not dropped & _kept_at_its_end(ordered[: newest + 1])


@FEW
@given(histories())
def test_a_grade_below_proven_never_makes_a_proven_one_drop(backups: list[Graded]) -> None:
    proven = [backup for backup in backups if backup.grade == "proven"]
    ref = max((backup.at for backup in usable(backups)), default=NOW)
    same_ref = [backup for backup in backups if backup.grade == "proven" or backup.at == ref]
    policy = POLICY.model_copy(update={"keep_last": 1})
    assert {backup.id for backup in proven} & kept(same_ref, policy=policy) <= kept(backups, policy=policy)


@FEW
@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(backups: list[Graded], random: Any) -> None:
    shuffled = list(backups)
    random.shuffle(shuffled)
    assert plan(shuffled, POLICY, NOW) == plan(backups, POLICY, NOW)


@FEW
@given(histories(), st.integers(0, MINUTES))
def test_a_clock_set_back_drops_nothing_more_through_prune(backups: list[Graded], minutes: int) -> None:
    earlier = prune_plan(backups, POLICY, NOW - timedelta(minutes=minutes), Circumstances(really=True))
    now = {row.backup.id for row in plan(backups, POLICY, NOW) if not row.keep}
    assert {backup.id for backup in earlier.drops} <= now


@FEW
@given(histories())
def test_pruning_after_each_backup_keeps_at_least_what_pruning_once_keeps(backups: list[Graded]) -> None:
    left: list[Graded] = []
    for backup in sorted(backups, key=lambda backup: backup.at):
        left = [row.backup for row in plan([*left, backup], POLICY, backup.at) if row.keep]
    assert {backup.id for backup in left if backup.usable} >= {backup.id for backup in usable(backups)} & kept(backups)


@FEW
@given(histories())
def test_every_backup_has_a_row_and_every_row_a_reason(backups: list[Graded]) -> None:
    rows = plan(backups, POLICY, NOW)
    assert {row.backup.id for row in rows} == {backup.id for backup in backups}
    assert all(row.reasons for row in rows)
