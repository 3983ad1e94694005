"""The ledger's pure rules: who is dead, tried again, in which turn; what a list holds; how a row is rebuilt."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from blocks.errors import Refused
from flows.ledger import Operation, Setting, holder, steps
from flows.ledger.hands import busy
from flows.ledger.setting import rebuilt
from flows.ledger.takeover import in_turn, stands_still_s, waits
from tests.parts.toys import ToyDoor, ToyFile, ToyPlan, toy_deploy, toy_migrate

NOW = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)


def row(**fields: Any) -> dict[str, Any]:
    """An open operation's row: lease 30 s, renewed just now."""
    defaults = {"id": 1, "parent": None, "kind": "k", "failures": 0, "lease_s": 30.0, "now": NOW, "tried_at": NOW}
    return {**defaults, "expires_at": NOW + timedelta(seconds=30), **fields}


@pytest.mark.parametrize(
    ("expires_in_s", "still_s"),
    [(-0.1, 7.5), (-86400, 7.5), (0, None), (30, None), (60, None), (60.1, 24), (86400, 24)],
)
def test_dead_is_expired_and_still_for_a_quarter_lease_or_too_far_and_still_for_four_fifths(
    expires_in_s: float, still_s: float | None
) -> None:
    assert stands_still_s(row(expires_at=NOW + timedelta(seconds=expires_in_s))) == still_s


@pytest.mark.parametrize(
    ("key", "doing"), [("deploy 1a2b 1", "deploy 1a2b 1"), ("v7", "deploy v7"), ("deployed", "deploy deployed")]
)
def test_who_is_kept_out_reads_once_what_is_being_done(key: str, doing: str) -> None:
    held = row(kind="deploy", key=key, actor="anna", began_at=NOW)
    said = f"app/release is held by {doing} of anna since 2026-11-24 02:00:00 UTC: wait until it is settled"
    assert str(busy(held, "app/release")) == said


@pytest.mark.parametrize(("failures", "backoff_s"), [(0, 0), (1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (10000, 300)])
def test_a_failure_is_tried_again_after_2_4_8_up_to_300_seconds(failures: int, backoff_s: int) -> None:
    tried = {"failures": failures, "tried_at": NOW - timedelta(seconds=backoff_s)}
    assert not waits(row(**tried))
    if backoff_s:
        assert waits(row(**tried | {"tried_at": NOW - timedelta(seconds=backoff_s - 0.1)}))


def test_urgent_ones_come_first_then_the_newest() -> None:
    rows = [row(id=number, kind=kind) for number, kind in enumerate(("k", toy_migrate.kind, "k", toy_migrate.kind))]

    assert [each["id"] for each in in_turn(rows, rows)] == [3, 1, 2, 0]


def test_a_parent_waits_for_its_open_child_unless_that_has_trouble() -> None:
    parent, child = row(id=1), row(id=2, parent=1)

    assert in_turn([parent], [parent, child]) == []
    assert in_turn([parent, child], [parent, child]) == [child]
    assert in_turn([parent], [parent, child | {"failures": 1}]) == [parent]


def test_a_list_holds_what_its_plan_names() -> None:
    assert toy_migrate.scopes(ToyPlan(stage="production", database="live")) == ["production/database/live"]
    assert toy_deploy.plan_type is ToyPlan


def test_a_kind_and_a_setting_have_one_home() -> None:
    with pytest.raises(TypeError, match="two step lists are named toy deploy"):

        @steps("toy deploy", holds=[])
        def other(op: Operation, plan: ToyPlan) -> None: ...

    with pytest.raises(TypeError, match="two settings are named ToyFile"):
        type("ToyFile", (Setting,), {"__module__": "elsewhere"})


@dataclass(frozen=True)
class ToyDeep(Setting):
    when: datetime
    parts: tuple[tuple[str, int], ...] = ()


def test_a_setting_is_rebuilt_from_its_row_as_it_was() -> None:
    for setting in (ToyFile("a"), ToyDoor("b"), ToyDeep(NOW, (("x", 1),))):
        assert rebuilt(setting.name, setting.arguments) == setting
    with pytest.raises(Refused, match="no setting named Gone is known here"):
        rebuilt("Gone", {})


def test_a_holder_is_named_anew_for_each_operation_and_says_whether_it_may_be_killed() -> None:
    first, second = holder.me(expendable=True), holder.me(expendable=True)

    assert first != second
    assert first.split(":")[:4] == second.split(":")[:4]
    assert first.split(":")[4].startswith("x")
    assert not holder.me(expendable=False).split(":")[4].startswith("x")


def test_nobody_kills_itself_another_host_or_a_process_that_took_the_number() -> None:
    boot, namespace, pid, started, mark = holder.me(expendable=True).split(":")

    assert not holder.end(f"{boot}:{namespace}:{pid}:{started}:{mark}")
    assert not holder.end(f"other:{namespace}:1:{started}:{mark}")
    assert not holder.end(f"{boot}:other:1:{started}:{mark}")
    assert holder.end(f"{boot}:{namespace}:1:another start:{mark}")  # gone, and 1 is somebody else
