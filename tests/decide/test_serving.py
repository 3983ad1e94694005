"""Who had the traffic when, and where a rollback goes: the release that served long and well enough, or a reason."""

from datetime import UTC, datetime, timedelta

import pytest

from flows.records_release import Migration, Release, Told
from flows.rollback.candidates import Known, Rules, breaking_between, choose, goes_too_far
from flows.rollback.plan import RollbackPlan, plan_rollback
from flows.serving import serving, spans, spans_of

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RULES = Rules(stable_after_s=3600, stable_error_percent=1.0)
EXPAND, DROP = Migration(version="0001_add"), Migration(version="0002_drop", breaking=True)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def release(number: int, commit: str, previous: str = "", **more: object) -> Release:
    slot = "blue" if number % 2 else "green"
    given = {"key": f"deploy {commit} {number}", "stage": "lab", "kind": "deploy", "number": number, "commit": commit}
    return Release.model_validate(
        given | {"subject": "a change", "slot": slot, "previous": previous, "at": T0, "actor": "anna"} | more
    )


def told(one: Release, state: str, live: float | None, ended: float | None = None) -> Told:
    return Told(
        release=one,
        state=state,
        live_at=None if live is None else at(live),
        ended_at=None if ended is None else at(ended),
    )


def known(one: Release, minutes: float = 120, **more: object) -> Known:
    given: dict[str, object] = {"n": 1000, "errors": 0, "kept": False, "can_build": True}
    return Known(one, minutes * 60, **(given | more))  # pyright: ignore[reportArgumentType]


V1, V2, V3 = release(1, "aaaa1111"), release(2, "bbbb2222", "aaaa1111"), release(3, "cccc3333", "bbbb2222")


def test_each_release_serves_until_the_next_one_is_live() -> None:
    found = spans([told(V1, "done", 0, 10), told(V2, "done", 60, 70)], at(90))
    assert [(span.release.number, span.seconds) for span in found] == [(1, 3600), (2, 1800)]
    assert serving([told(V1, "done", 0, 10), told(V2, "done", 60, 70)], at(90)) == V2


def test_an_undone_release_gives_the_traffic_back() -> None:
    history = [told(V1, "done", 0, 10), told(V2, "undone", 60, 61)]
    found = spans(history, at(90))
    assert [(span.release.number, span.seconds) for span in found] == [(1, 3600), (2, 60), (1, 1740)]
    assert serving(history, at(90)) == V1
    assert sum(span.seconds for span in spans_of("aaaa1111", found)) == 5340


def test_one_that_never_went_live_served_nothing() -> None:
    assert spans([told(V1, "undone", None, 3)], at(5)) == []
    assert serving([], at(5)) is None


def test_after_a_first_release_that_was_undone_nothing_serves() -> None:
    assert serving([told(V1, "undone", 0, 3)], at(5)) is None


def test_while_it_bakes_it_serves() -> None:
    assert serving([told(V1, "done", 0, 10), told(V2, "acting", 60)], at(61)) == V2


def test_the_newest_stable_one_is_chosen_and_the_others_have_a_reason() -> None:
    choice = choose([known(V3), known(V2, minutes=2), known(V1, kept=True)], V3, "s", RULES)
    assert choice.target
    assert choice.target.release == V1
    assert choice.refused == ("v2 (bbbb2222): it served 2 min, stable is 1 h",)
    assert choice.sentence == "back to v1 (aaaa1111), which served 2 h: its process is kept"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"minutes": 59.9}, r"it served 59 min 54 s, stable is 1 h"),
        ({"n": 1000, "errors": 10}, r"1\.0 % of its 1000 answers were errors, stable is 1 %"),
        ({"can_build": False}, r"its process is gone and its commit is no longer in the repository"),
        ({"quarantine": "errors 5 %"}, r"it is in quarantine \(errors 5 %\)"),
    ],
)
def test_what_is_not_stable_is_not_gone_back_to(fault: dict[str, object], reason: str) -> None:
    choice = choose([known(V2), known(V1, **fault)], V2, "s", RULES)  # pyright: ignore[reportArgumentType]
    assert choice.target is None
    assert reason.replace("\\", "") in choice.refused[0]
    assert "there is nothing to go back to" in choice.sentence


def test_a_person_may_overrule_what_is_unstable_and_reads_what_was_overruled() -> None:
    choice = choose([known(V2), known(V1, minutes=1, quarantine="errors 5 %")], V2, "s", RULES, to="v1")
    assert choice.target
    assert len(choice.warnings) == 2


def test_nobody_may_overrule_a_breaking_migration() -> None:
    newer, older = release(2, "bbbb2222", migrations=(EXPAND, DROP)), release(1, "aaaa1111", migrations=(EXPAND,))
    for to in ("", "v1", "aaaa"):
        choice = choose([known(newer), known(older, kept=True)], newer, "now", RULES, to=to)
        assert choice.target is None
        assert "cannot work with the migrations 0002_drop" in choice.sentence
        assert "no way down is declared: go forward with a fix" in choice.sentence
    declared = Rules(3600, 1.0, compatible=("0002_drop",))
    assert choose([known(newer), known(older)], newer, "now", declared).target
    same_schema = release(1, "aaaa1111", migrations=(EXPAND,), schema_after="now")
    assert choose([known(newer), known(same_schema)], newer, "now", RULES).target


def test_a_declared_way_down_is_offered() -> None:
    drop = Migration(version="0002_drop", breaking=True, rollback=True)
    newer, older = release(2, "bbbb2222", migrations=(drop,)), release(1, "aaaa1111")
    rules = Rules(3600, 1.0, down="python migrate.py down")
    said = choose([known(newer), known(older)], newer, "", rules).sentence
    assert "their way down is declared, run it first: python migrate.py down 0" in said
    older = release(1, "aaaa1111", migrations=(EXPAND,))
    said = choose([known(newer), known(older)], newer, "", rules).sentence
    assert "python migrate.py down 0001_add" in said
    assert "no way down is declared" in choose([known(newer), known(older)], newer, "", RULES).sentence


def test_expanding_migrations_break_nothing() -> None:
    assert breaking_between((EXPAND, DROP), (EXPAND,), ()) == ["0002_drop"]
    assert breaking_between((EXPAND,), (), ()) == []


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("v9", "names no release that ever served"),
        ("dddd", "served: v2 (bbbb2222), v1 (aaaa1111)"),
        ("", None),
    ],
)
def test_a_name_that_never_served_is_refused_with_those_that_did(to: str, says: str | None) -> None:
    if says is None:
        assert choose([known(V2), known(V1)], V2, "", RULES, to).target
        return
    with pytest.raises(ValueError, match="to='") as refused:
        choose([known(V2), known(V1)], V2, "", RULES, to)
    assert says in str(refused.value)


def test_an_ambiguous_name_is_refused() -> None:
    twin = release(4, "aaaa2222")
    with pytest.raises(ValueError, match="more than one release"):
        choose([known(twin), known(V1)], V2, "", RULES, "aaaa")


def test_going_back_to_what_serves_is_refused() -> None:
    assert choose([known(V2), known(V1)], V2, "", RULES, "v2").sentence.endswith("v2 (bbbb2222) is what serves now")


@pytest.mark.parametrize(
    ("kind", "minutes_ago", "too_far"),
    [("rollback", 10, True), ("rollback", 59.9, True), ("rollback", 60, False), ("deploy", 1, False)],
)
def test_after_a_rollback_no_second_one_is_chosen_for_a_while(kind: str, minutes_ago: float, too_far: bool) -> None:
    current = release(1, "aaaa1111", kind=kind)
    why = goes_too_far(current, at(0), timedelta(hours=1), at(minutes_ago))
    assert bool(why) == too_far
    assert not why or "no second one is chosen within 1 h (release.rollback_pause)" in why


def plan(number: int, current: Release) -> RollbackPlan:
    chosen = choose([known(release(number, f"{number}" * 8))], current, "s", RULES, to=f"v{number}")
    slots = {"blue": current.commit, "green": ""}
    return plan_rollback(chosen, current, slots, "rollback 1", "odd", "s", T0)


def test_going_back_blames_what_is_taken_back_and_going_forward_nothing() -> None:
    assert plan(1, V3).blamed == V3.name
    assert plan(7, V3).blamed == ""
    assert f"of {V3.name}, once it has lost the traffic" in plan(1, V3).markdown


def test_a_kept_process_that_cannot_be_used_is_freed_before_it_is_built_again() -> None:
    target = release(1, "aaaa1111", schema_after="then")
    slots = {"green": V2.commit, "blue": target.commit}
    for kept, left_over in ((True, ""), (False, target.commit)):
        chosen = choose([known(V2), known(target, kept=kept)], V2, "s", RULES)
        made = plan_rollback(chosen, V2, slots, "rollback 1", "odd", "s", T0)
        assert (made.slot, made.left_over) == ("blue", left_over)
        assert ("it is built again" in made.how) == (not kept)
        assert made.release("key", "anna").schema_after == "then"
