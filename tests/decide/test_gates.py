"""What each gate says: by exit codes, names, counts and times, never by a word in a text."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from flows.deploy import gates
from flows.deploy.plan import Seen, plan_deploy
from flows.records_release import Gate, Migration, Release, Told
from flows.rollback.candidates import Choice
from flows.stage import Stage
from flows.stage_release import Audit, Freeze
from flows.stage_release import Release as Rules

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
OLD, NEW = "a" * 40, "b" * 40


def released(migrations: tuple[Migration, ...] = ()) -> Told:
    one = Release(
        key="deploy a 1", stage="lab", kind="deploy", number=1, commit=OLD, subject="first", slot="blue", at=NOW,
        actor="anna", migrations=migrations,
    )  # fmt: skip
    return Told(release=one, state="done", live_at=NOW, ended_at=NOW)


def seen(*releases: Told, live: str = "blue") -> Seen:
    slots = {"blue": OLD if live else "", "green": ""}
    shares = {"blue": 100, "green": 0}
    return Seen(NEW, "second", slots, shares, releases, ("PORT",), ("second",), "s", Choice(None), NOW)


def test_no_pending_migrations_is_not_pending() -> None:
    """The original looked for the word: "No pending migrations" stopped every deploy."""
    gate, pending = gates.migrations(0, "No pending migrations")
    assert (gate.ok, pending) == (True, False)
    gate, pending = gates.migrations(1, "")
    assert (gate.ok, pending) == (True, True)
    with pytest.raises(ValueError, match=r"exit code 3 .* means neither pending \(1\) nor none \(0\): connection ref"):
        gates.migrations(3, "connection refused")


def report(**severities: str) -> str:
    return json.dumps({"vulnerabilities": {name: {"severity": severity} for name, severity in severities.items()}})


@pytest.mark.parametrize(
    ("output", "ok", "says"),
    [
        (report(), True, "within the budget"),
        (report(left="moderate"), True, "within the budget"),
        (report(left="high"), False, "1 high (left)"),
        (report(left="critical", right="high"), False, "1 critical (left); 1 high (right)"),
        ("found 0 vulnerabilities", False, "no audit report"),
        ('{"vulnerabilities": []}', False, "no audit report"),
    ],
)
def test_the_audit_counts_by_severity_whatever_the_tool_exited_with(output: str, ok: bool, says: str) -> None:
    gate = gates.audit(output, Audit(command="x"), NOW)
    assert (gate.ok, says in gate.sentence) == (ok, True)


def test_an_allowance_expires() -> None:
    rules = Audit(command="x", allow={"left": NOW + timedelta(days=1)})
    assert gates.audit(report(left="high"), rules, NOW).ok
    late = gates.audit(report(left="high"), rules, NOW + timedelta(days=2))
    assert not late.ok
    assert "left was allowed until 2026-11-26 12:00:00 UTC" in late.sentence


def test_a_freeze_holds_from_its_beginning_to_before_its_end() -> None:
    window = Freeze(begins=NOW, ends=NOW + timedelta(hours=1), reason="Black Friday")
    assert gates.no_freeze([window], NOW).sentence == "deploys are frozen until 2026-11-25 13:00:00 UTC: Black Friday"
    assert [gates.no_freeze([window], at).ok for at in (NOW - timedelta(seconds=1), NOW, NOW + timedelta(hours=1))] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("checks", "ok", "says"),
    [
        ([("build", "success"), ("test", "success")], True, "2 checks passed"),
        ([("build", "success"), ("deploy production", "pending")], True, "1 check passed"),
        ([("build", "success"), ("deploy staging", "failure")], True, "1 check passed"),
        ([("deploy production", "success")], False, "nobody vouches for bbbbbbbb: GitHub knows no check of it"),
        ([], False, "nobody vouches for bbbbbbbb"),
        ([("build", "success"), ("deploy", "failure")], False, "deploy failed"),
        ([("a", "failure"), ("b", "pending"), ("c", "failure")], False, "a, c failed; b pending: wait for it"),
    ],
)
def test_ci_vouches_with_all_its_checks_but_the_deploys_themselves(
    checks: list[tuple[str, str]], ok: bool, says: str
) -> None:
    gate = gates.vouched(NEW, checks)
    assert (gate.ok, gate.sentence.startswith(says)) == (True, True) if ok else not gate.ok
    assert says in gate.sentence


def test_what_nobody_declared_is_a_warning() -> None:
    for gate in (gates.nobody_vouches(), gates.backup_is_left_out()):
        assert (gate.ok, gate.warning) == (True, True)


def test_a_quarantined_commit_is_told_the_way_out() -> None:
    gate = gates.not_quarantined(NEW, {NEW: "v2: rolled back by anna: odd"})
    assert not gate.ok
    assert (
        "v2: rolled back by anna: odd; deploy a commit that mends it, or name it in release.pardoned" in gate.sentence
    )
    assert gates.not_quarantined(NEW, {OLD: "v1"}).ok


def test_missing_variables_are_named() -> None:
    gate = gates.environment(["PORT", "JWT_SECRET", "REDIS_URL"], ["PORT"])
    assert (gate.ok, gate.sentence) == (False, "JWT_SECRET, REDIS_URL not set: set them and apply the stage")


def test_the_first_release_passes_with_a_warning() -> None:
    gate = gates.way_back(seen(live=""), (), (), is_known=True)
    assert (gate.ok, gate.warning) == (True, True)


def test_a_breaking_migration_closes_the_way_back() -> None:
    drop = Migration(version="0002_drop", breaking=True)
    refused = gates.way_back(seen(released()), (drop,), (), is_known=True)
    assert not refused.ok
    assert "0002_drop would break aaaaaaaa" in refused.sentence
    assert gates.way_back(seen(released()), (drop,), ("0002_drop",), is_known=True).ok
    assert gates.way_back(seen(released((drop,))), (drop,), (), is_known=True).ok


def test_a_dry_run_does_not_say_of_the_way_back_what_it_did_not_ask() -> None:
    gate = gates.way_back(seen(released()), (), (), is_known=False)
    assert gate.sentence.endswith("whether a migration breaks it is not asked in a dry run")
    page = plan_deploy(Stage.named("local"), seen(released()), [], (), None, "").markdown
    assert "| migrations | not asked: a dry run runs no command |" in page


def test_the_page_shows_the_newest_changes_and_how_many_more_there_are() -> None:
    many = replace(seen(released()), changes=tuple(f"change {number}" for number in range(73)))
    page = plan_deploy(Stage.named("local"), many, [], (), False, "").markdown
    assert page.endswith("- change 49\n- and 23 more")


def dead(*releases: Told) -> Seen:
    return replace(seen(*releases), slots={"blue": "", "green": OLD})


def test_a_release_whose_process_died_is_no_first_release() -> None:
    """The traffic is still its slot's, though nothing answers: a new one goes to the other slot, and has a baseline."""
    one = dead(released())
    assert (one.live_slot, one.live_commit, one.is_dead) == ("blue", OLD, True)
    plan = plan_deploy(Stage.named("local"), one, [], (), False, "")
    assert (plan.slot, plan.left_slot, plan.previous, plan.is_one_way) == ("green", "blue", OLD, True)
    assert not plan_deploy(Stage.named("local"), seen(released()), [], (), False, "").is_one_way
    assert not plan_deploy(Stage.named("local"), seen(live=""), [], (), False, "").is_one_way
    gate = gates.way_back(one, (), (), is_known=True)
    assert (gate.ok, gate.warning) == (True, True)
    assert gate.sentence == "aaaaaaaa has the traffic and does not live: the new release stays, whatever is found"
    assert (dead().live_slot, dead().is_dead) == ("", False)


def test_a_command_that_fails_says_its_code_and_its_last_words() -> None:
    assert gates.command("test", 2, "2 failed").sentence == "exit code 2: 2 failed"
    assert gates.command("test", 0, "ok").ok


BOTH, GRACE = {"blue": True, "green": True}, timedelta(seconds=10)


def test_an_undeclared_version_is_a_warning() -> None:
    assert gates.platform(Rules(), BOTH, GRACE).warning
    assert not gates.platform(Rules(version="header x-release"), BOTH, GRACE).warning


@pytest.mark.parametrize(
    ("checked", "grace", "says"),
    [
        ({"blue": True, "green": False}, GRACE, "the load balancer does not check green by itself"),
        ({"blue": True}, GRACE, "the load balancer has no server for green"),
        (BOTH, timedelta(seconds=0.5), "a release has 0.5 s to end, at least 1.0 s are wanted"),
    ],
)
def test_a_platform_on_which_requests_would_fail_is_refused(
    checked: dict[str, bool], grace: timedelta, says: str
) -> None:
    gate = gates.platform(Rules(version="header x-release"), checked, grace)
    assert not gate.ok
    assert gate.sentence.startswith(says)


@pytest.mark.parametrize("output", ["", "{}", '[{"breaking": true}]', '[{"version": "1", "drops": true}]'])
def test_a_listing_of_another_shape_is_refused(output: str) -> None:
    with pytest.raises(ValueError, match="the listing is not JSON of"):
        gates.listed(0, output, "")


def test_a_listing_that_failed_says_so() -> None:
    with pytest.raises(ValueError, match="the listing of the migrations failed with exit code 2: no such table"):
        gates.listed(2, "[]", "no such table")


def left_open(kind: Literal["deploy", "rollback"]) -> Told:
    mine = released().release.model_copy(update={"key": f"{kind} b 4", "kind": kind, "number": 7, "commit": NEW})
    return Told(release=mine, state="acting", live_at=NOW)


def test_a_deploy_that_was_left_unfinished_keeps_its_key_and_its_number() -> None:
    one = seen(released(), left_open("deploy"))
    plan = plan_deploy(Stage.named("local"), one, [], (), False, "")
    assert (one.unfinished, one.name) == ("deploy b 4", "v7 (bbbbbbbb)")
    assert (plan.key, plan.number, plan.name) == ("deploy b 4", 7, one.name)


def test_an_unfinished_rollback_to_the_commit_is_no_unfinished_deploy() -> None:
    one = seen(released(), left_open("rollback"))
    assert (one.unfinished, one.number) == ("", 8)


def test_the_plan_goes_to_the_other_slot_and_numbers_the_attempts() -> None:
    lab = Stage.named("local")
    plan = plan_deploy(lab, seen(released()), [Gate(name="x", ok=False, sentence="no")], (), False, "before-deploy")
    assert (plan.slot, plan.left_slot, plan.previous, plan.number) == ("green", "blue", OLD, 2)
    assert plan.key == f"deploy {NEW} 1"
    assert plan.refusals == ("x: no",)
    assert "**refused**" in plan.markdown
    again = plan_deploy(lab, seen(released()), [], (), False, "another backup")
    assert again.digest() == plan.digest()
