"""What becomes of a release after each look: every state, and every case without data."""

import json
from collections.abc import Sequence
from math import log
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.bake.baseline import Baseline
from flows.bake.looks import BUCKETS, BakeRules, Look, Signal
from flows.bake.rule import Judgement, Watch, judge
from flows.bake.signals import Reading

RULES = BakeRules(minimum_s=60, maximum_s=120)
LONG = BakeRules(minimum_s=1800, maximum_s=1800)
HIST = tuple(9500 if place == 20 else 500 if place == 40 else 10_000 if place == 10 else 0 for place in range(BUCKETS))
STABLE = Baseline(minutes=67, n=20_000, errors=4, hist=HIST)  # 5 requests a second
NOTHING: dict[str, Any] = {}
GOOD: dict[str, Any] = {"n": 50, "dependency_n": 4}
DOWN: dict[str, Any] = {"n": 12, "errors": 12, "health_failures": 5}


def looks(*many: dict[str, Any], every_s: float = 10) -> list[Look]:
    return [Look(at=every_s * place, **each) for place, each in enumerate(many, start=1)]


def judged(*many: dict[str, Any], baseline: Baseline = STABLE, rules: BakeRules = RULES) -> Judgement:
    return judge(baseline, looks(*many), rules)


def reading(judgement: Judgement, signal: Signal) -> Reading:
    return next(each for each in judgement.readings if each.signal == signal)


def slow(of_50: int) -> dict[str, Any]:
    hist = [0] * BUCKETS
    hist[10], hist[41] = 50 - of_50, of_50
    return {"n": 50, "hist": tuple(hist)}


def test_a_good_release_is_healthy_after_the_minimum_and_not_before() -> None:
    before, after = judged(*[GOOD] * 5), judged(*[GOOD] * 6)
    assert (before.state, before.action, before.reason) == ("watching", "wait", "the minimum bake is not over")
    assert (after.state, after.action, after.reason, after.at) == ("healthy", "keep", "", 60)


def test_a_bad_release_is_rolled_back_by_its_errors() -> None:
    found = judged(*[{"n": n, "errors": bad} for n, bad in ((51, 1), (49, 2), (52, 4), (51, 4))])
    assert (found.state, found.action, found.at) == ("rollback", "rollback", 40)
    assert found.reason == "error has reached its threshold"
    assert found.errors.log_e == pytest.approx(7.17378, abs=1e-3)


def test_looks_after_the_one_that_decided_change_nothing() -> None:
    bad = [{"n": 50, "errors": 5}] * 5
    assert judged(*bad, *[GOOD] * 100) == judged(*bad)


def test_latency_counts_from_the_first_look_after_a_minute() -> None:
    found = judged(*[slow(25)] * 12, rules=LONG)
    assert found.state == "rollback"
    assert found.at == 90
    assert reading(found, "slow95").path[:6] == (0,) * 6
    assert reading(found, "slow95").n == 150


def test_probes_are_a_stream_of_their_own_with_an_alpha_of_their_own() -> None:
    found = judged(*[{"probes_n": 6, "probes_bad": 4}] * 6, rules=LONG)
    assert found.state == "rollback"
    assert found.reason == "probe has reached its threshold"
    assert reading(found, "probe").alpha == 0.001
    assert found.errors.n == 0


@pytest.mark.parametrize(("profile", "alpha"), [("strict", 0.0005), ("default", 0.005), ("fast", 0.05)])
def test_a_profile_moves_every_threshold(profile: Any, alpha: float) -> None:
    found = judged(GOOD, rules=BakeRules(profile=profile))
    assert found.errors.alpha == pytest.approx(alpha)
    assert reading(found, "slow50").alpha == pytest.approx(alpha / 2)


class TestHardDown:
    def test_five_failed_health_probes_and_no_success_at_the_edge_need_no_statistics(self) -> None:
        found = judged(DOWN)
        assert (found.state, found.action, found.at) == ("hard_down", "rollback", 10)
        assert found.reason == "5 health probes in a row failed, and no request succeeded"

    @pytest.mark.parametrize(
        "not_quite",
        [
            {**DOWN, "health_failures": 4},
            {**DOWN, "errors": 11},
            {"read": False, "health_failures": 9},  # the controller may be the one that is cut off
        ],
        ids=["four", "a success", "an edge that cannot be read"],
    )
    def test_anything_less_is_no_hard_down(self, not_quite: dict[str, Any]) -> None:
        assert judged(not_quite).state == "watching"

    def test_no_request_is_no_success(self) -> None:
        assert judged({"health_failures": 5}).state == "hard_down"


class TestFrozen:
    BAD: dict[str, Any] = {"n": 50, "errors": 15, "dependency_n": 4, "dependency_bad": 2}  # noqa: RUF012

    def test_a_failed_dependency_freezes_its_look_and_the_next_three(self) -> None:
        found = judged(GOOD, self.BAD, *[GOOD] * 5, rules=LONG)
        assert found.frozen == (False, True, True, True, True, False, False)
        assert found.frozen_s == 40
        assert (found.errors.n, found.errors.bad) == (150, 0)
        assert found.errors.path[0] == found.errors.path[4]

    def test_failures_in_a_row_count_from_the_last(self) -> None:
        assert judged(self.BAD, GOOD, self.BAD, *[GOOD] * 5, rules=LONG).frozen == (True,) * 6 + (False,) * 2

    def test_after_the_limit_everything_counts(self) -> None:
        found = judged(*[self.BAD] * 60, rules=LONG)
        assert found.frozen_s == 420
        assert found.frozen.index(False) == 42
        assert (found.state, found.at) == ("rollback", 450)

    def test_probes_are_frozen_with_the_rest(self) -> None:
        found = judged({**self.BAD, "probes_n": 6, "probes_bad": 6}, rules=LONG)
        assert reading(found, "probe").n == 0

    def test_a_limit_of_zero_freezes_nothing(self) -> None:
        assert judged(*[self.BAD] * 9, rules=BakeRules(frozen_limit_s=0)).at == 30


NO_DATA: list[tuple[str, list[dict[str, Any]], Baseline, str, str]] = [
    ("no traffic", [{}] * 12, STABLE, "TRAFFIC_LOST", "no request was seen"),
    ("dead source", [{"read": False}] * 12, STABLE, "SOURCE_LOST", "could not be read in any of 12 looks"),
    ("nothing known", [GOOD] * 12, Baseline(), "", "nothing is known of the stable version"),
    ("traffic ended", [*[GOOD] * 5, *[{}] * 7], STABLE, "TRAFFIC_LOST", "no request came for 70 s, where about 348"),
    ("source died", [*[GOOD] * 5, *[{"read": False}] * 7], STABLE, "SOURCE_LOST", "could not be read in the last look"),
    (
        "database down",
        [{"n": 50, "dependency_n": 4, "dependency_bad": 4}] * 12,
        STABLE,
        "",
        "every request came while a dependency failed",
    ),
    (
        "database down at the end",
        [*[GOOD] * 5, *[{**GOOD, "dependency_bad": 4}] * 7],
        STABLE,
        "",
        "a dependency failed in the last looks",
    ),
    ("only probes", [{"probes_n": 6}] * 12, STABLE, "TRAFFIC_LOST", "no request was seen"),
    ("low traffic", [{"n": 2}] * 12, Baseline(minutes=1667, n=20_000), "", "an error rate of 2 % cannot be excluded"),
]


@pytest.mark.parametrize(
    ("many", "baseline", "alarm", "reason"), [case[1:] for case in NO_DATA], ids=[case[0] for case in NO_DATA]
)
def test_without_data_nothing_is_healthy(
    many: Sequence[dict[str, Any]], baseline: Baseline, alarm: str, reason: str
) -> None:
    found = judged(*many, baseline=baseline)
    assert (found.state, found.at, found.alarm) == ("inconclusive", 120, alarm)
    assert reason in found.reason
    at_each_look = [judged(*many[:until], baseline=baseline).state for until in range(len(many))]
    assert "healthy" not in at_each_look


def test_lost_traffic_is_an_alarm_once_20_requests_are_missing_and_the_probes_decide() -> None:
    slow_service = Baseline(minutes=667, n=20_010)  # 0.5 a second
    silent = [judged(*[NOTHING] * many, baseline=slow_service, rules=LONG).alarm for many in (3, 4)]
    assert silent == ["", "TRAFFIC_LOST"]
    assert judged(*[{"probes_n": 6, "probes_bad": 6}] * 4, baseline=slow_service, rules=LONG).state == "rollback"


def test_a_look_that_could_not_be_read_is_no_silence() -> None:
    assert judged(GOOD, {"read": False}, {"n": 1}).alarm == ""


def test_no_looks_at_all_are_no_verdict() -> None:
    found = judged()
    assert (found.state, found.reason) == ("watching", "no request was seen")


def test_strong_evidence_forbids_healthy_though_the_error_rate_is_low() -> None:
    found = judged(*[GOOD] * 40, *[slow(6)] * 3, rules=BakeRules(minimum_s=430))
    assert log(20) < reading(found, "slow95").log_e < log(400)
    assert found.state == "watching"
    assert found.reason == "there is strong evidence against it (slow95)"


@pytest.mark.parametrize(
    ("policy", "action", "at"), [("extend", "keep", 120), ("accept", "keep", 60), ("hold", "hold", 60)]
)
def test_the_policy_says_what_becomes_of_one_that_proved_nothing(policy: Any, action: str, at: float) -> None:
    found = judged(*[{"n": 2}] * 12, rules=BakeRules(minimum_s=60, maximum_s=120, policy=policy))
    assert (found.state, found.action, found.at) == ("inconclusive", action, at)


def test_a_critical_service_goes_back_when_nothing_was_proven() -> None:
    found = judged(*[{"n": 2}] * 12, rules=BakeRules(minimum_s=60, maximum_s=120, policy="rollback"))
    assert (found.state, found.action) == ("inconclusive", "rollback")


@pytest.mark.parametrize("each", [GOOD, {"n": 50, "errors": 25}, DOWN, {}, {"read": False}])
@pytest.mark.parametrize("policy", ["extend", "rollback", "hold"])
def test_the_first_release_is_kept_after_the_minimum_as_there_is_nothing_to_go_back_to(
    each: dict[str, Any], policy: Any
) -> None:
    rules = BakeRules(minimum_s=60, maximum_s=120, policy=policy)
    found = judged(*[each] * 12, baseline=Baseline(first=True), rules=rules)
    assert (found.state, found.action, found.at) == ("inconclusive", "keep", 60)
    assert found.reason.startswith("there is no stable version to compare with or to go back to")
    assert found.reason.endswith("(it is down)") == (each is DOWN)


def test_a_small_baseline_does_not_keep_a_good_release_from_being_healthy() -> None:
    assert judged(*[GOOD] * 6, baseline=Baseline(minutes=1, n=300)).state == "healthy"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"n": 1, "errors": 2}, "errors 2 of 1"),
        ({"n": 1, "hist": (1,) * 61}, "histogram 61 of 1"),
        ({"n": 9, "hist": (1, 1)}, "2 buckets, expected 61"),
        ({"n": 9, "read": False}, "9 requests of a source that was not read whole"),
        ({"probes_bad": 1}, "probes 1 of 0"),
    ],
)
def test_a_look_that_does_not_add_up_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Look(at=10, **wrong)


def test_a_watch_that_has_decided_stays_so() -> None:
    watch = Watch(STABLE, RULES)
    states = [watch.add(look) for look in looks(DOWN, *[GOOD] * 10)]
    assert set(states) == {"hard_down"}
    assert watch.judgement().at == 10


def test_a_look_counts_once() -> None:
    with pytest.raises(ValueError, match="each counts once"):
        judge(STABLE, [Look(at=10, n=1), Look(at=10, n=1)], RULES)


@st.composite
def stored(draw: st.DrawFn) -> list[Look]:
    """Looks of a bake with gaps, frozen and unread ones among them."""
    at, made = 0, list[Look]()
    for gap in draw(st.lists(st.integers(1, 60), min_size=1, max_size=30)):
        at += gap
        n = draw(st.integers(0, 400))
        late = draw(st.integers(0, n))
        hist = tuple(n - late if place == 10 else late if place == 41 else 0 for place in range(BUCKETS))
        dependency_bad = int(draw(st.integers(0, 9)) == 0)
        probes = draw(st.integers(0, 6))
        bad = draw(st.sampled_from((0, 0, 1, n // 2)))
        look = Look(at=at, n=n, errors=min(bad, n), hist=hist, probes_n=probes, dependency_n=4)
        made.append(look.model_copy(update={"dependency_bad": dependency_bad, "probes_bad": min(bad, probes)}))
    return made


@given(stored(), st.integers(0, 30), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_bake_replayed_from_its_stored_looks_is_the_same_bake(many: list[Look], died: int, rng: Any) -> None:
    whole = judge(STABLE, many, LONG)
    rows = [json.loads(json.dumps(look.model_dump(mode="json"))) for look in many]
    rng.shuffle(rows)
    again = judge(STABLE, [Look.model_validate(row) for row in rows], LONG)
    assert again == whole
    before = judge(STABLE, many[:died], LONG)
    for then, now in zip(before.readings, whole.readings, strict=True):
        assert then.path == now.path[: len(then.path)]
        assert then.log_e == pytest.approx(now.path[len(then.path) - 1] if then.path else 0, abs=1e-9)
    assert Judgement.model_validate_json(whole.model_dump_json()) == whole
