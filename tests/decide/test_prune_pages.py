"""A prune's plan names every step that it would take, and none where nothing goes."""

from flows.prune.pages import prune_rows
from flows.prune.retention import PrunePlan, Row
from flows.verdict import Verdict
from tests.decide.builders import graded

KEPT, GOING = Row(graded("11-24 02:00"), True, ("daily",)), Row(graded("01-02 02:00"), False, ("no rule",))


def plan(*, go: bool) -> PrunePlan:
    return PrunePlan(Verdict(go=go, reason=""), (GOING, KEPT))


def test_what_goes_has_its_steps_and_what_stays_has_none() -> None:
    stays, goes, orphan, upload = prune_rows(plan(go=True), ["20200101T000000Z-daily-aaaaaa"], [("some/key", "u1")])
    name = GOING.backup.id
    assert (stays["stays"], stays["steps"]) == ("stays", "")
    assert (goes["stays"], goes["steps"]) == ("goes", f"hide {name}, delete {name}")
    assert (orphan["worth"], orphan["steps"]) == ("no manifest", "sweep 20200101T000000Z-daily-aaaaaa")
    assert (upload["backup"], upload["steps"]) == ("some/key", "abort some/key u1")


def test_where_nothing_may_go_no_backup_has_steps() -> None:
    assert [(row["stays"], row["steps"]) for row in prune_rows(plan(go=False))] == [("stays", ""), ("would go", "")]
