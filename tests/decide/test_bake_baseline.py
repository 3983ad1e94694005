"""Which minutes of the stable version count, and the rates that follow from them."""

import json
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from flows.bake.baseline import Baseline, Minute, Tolerance, baseline_of, tolerances
from flows.bake.bounds import clopper_pearson
from flows.bake.looks import BakeRules, Signal

RULES = BakeRules()


def minutes(n: int, errors: int = 0) -> Iterator[Minute]:
    while True:
        yield Minute(n=n, errors=errors)


def histogram(**buckets: int) -> tuple[int, ...]:
    return tuple(buckets.get(f"b{place}", 0) for place in range(61))


def tolerance(baseline: Baseline, signal: Signal, rules: BakeRules = RULES) -> Tolerance:
    return next(each for each in tolerances(baseline, rules) if each.signal == signal)


@pytest.mark.parametrize(
    ("by_minute", "taken"), [(300, 67), (12_000, 60), (334, 60), (333, 61), (12, 1667), (1, 10_080), (0, 10_080)]
)
def test_minutes_are_taken_until_20_000_requests_an_hour_at_least_a_week_at_most(by_minute: int, taken: int) -> None:
    found = baseline_of(minutes(by_minute))
    assert (found.minutes, found.n) == (taken, taken * by_minute)


def test_a_young_stable_version_gives_what_it_has() -> None:
    found = baseline_of([Minute(n=100, errors=1, probes_n=36, probes_bad=1), Minute(n=50)])
    assert (found.minutes, found.n, found.errors, found.probes_n, found.probes_bad) == (2, 150, 1, 36, 1)
    assert found.rate == 1.25


def test_histograms_are_added_up_where_a_minute_has_one() -> None:
    found = baseline_of([Minute(n=3, hist=histogram(b1=2, b60=1)), Minute(), Minute(n=1, hist=histogram(b1=1))])
    assert found.hist == histogram(b1=3, b60=1)


@pytest.mark.parametrize(("n", "errors", "p0"), [(20_000, 0, "+"), (20_000, 4, "+"), (20_000, 200, "*")])
def test_errors_may_rise_by_half_or_by_a_fifth_of_a_point_whichever_is_more(n: int, errors: int, p0: str) -> None:
    bound = clopper_pearson(errors, n, 0.0025)
    found = tolerance(Baseline(minutes=60, n=n, errors=errors), "error")
    assert found.p0 == pytest.approx(bound + 0.002 if p0 == "+" else 1.5 * bound)
    assert found.why == ""


def test_clustered_errors_widen_the_bound() -> None:
    alone = tolerance(Baseline(minutes=60, n=20_000, errors=100), "error")
    clustered = tolerance(Baseline(minutes=60, n=20_000, errors=100, phi=9), "error")
    assert clustered.upper == clopper_pearson(100 / 9, 20_000 / 9, 0.0025) > alone.upper
    assert clustered.phi == 9


def test_a_stable_version_that_always_fails_still_leaves_a_rate_below_one() -> None:
    assert tolerance(Baseline(minutes=60, n=2000, errors=2000), "error").p0 == 0.9


def test_latency_is_judged_by_the_edge_of_the_first_bucket_past_its_share() -> None:
    known = Baseline(minutes=60, n=2000, hist=histogram(b10=1000, b20=899, b30=2, b40=99))
    median, p95 = tolerance(known, "slow50"), tolerance(known, "slow95")
    assert (median.edge, median.bad) == (10, 1000)
    assert (p95.edge, p95.bad) == (30, 99)
    assert median.p0 == pytest.approx(clopper_pearson(1000, 2000, 0.0025) + 0.05)
    assert p95.p0 == pytest.approx(1.5 * clopper_pearson(99, 2000, 0.0025))
    assert (median.phi, p95.phi) == (1, 1)


def test_too_small_a_baseline_leaves_the_objective_and_no_latency() -> None:
    known = Baseline(minutes=5, n=999, errors=50, hist=histogram(b10=999))
    assert tolerance(known, "error").p0 == RULES.objective_error_rate
    assert tolerance(known, "error").why == "the stable version has 999 requests, fewer than 1000"
    assert tolerance(known, "slow95").p0 is None
    assert tolerance(known, "slow95").why == "the stable version has 999 answer times, fewer than 1000"
    assert tolerance(known, "slow95", BakeRules(minimum_baseline=999)).p0


def test_answers_beyond_the_last_edge_cannot_get_slower() -> None:
    known = Baseline(minutes=60, n=2000, hist=histogram(b10=1500, b60=500))
    assert tolerance(known, "slow95").why == "the stable version's p95 is past the last edge"
    assert tolerance(known, "slow50").p0


def test_without_a_stable_version_errors_have_the_objective() -> None:
    found = tolerances(Baseline(first=True), RULES)
    assert [(each.p0, each.why) for each in found] == [
        (0.01, "there is no stable version"),
        (None, "there is no stable version"),
        (None, "there is no stable version"),
        (0.01, "there is no stable version"),
    ]


def test_probes_have_their_own_baseline_or_the_objective_and_never_less_than_requests() -> None:
    quiet = Baseline(minutes=60, n=20_000, errors=4, probes_n=2160)
    assert tolerance(quiet, "probe").p0 == pytest.approx(clopper_pearson(0, 2160, 0.0025) + 0.002)
    assert tolerance(Baseline(minutes=60, n=20_000, errors=4), "probe").p0 == 0.01
    failing = Baseline(minutes=60, n=20_000, errors=1000)
    assert tolerance(failing, "probe").p0 == tolerance(failing, "error").p0


def test_a_baseline_survives_as_json() -> None:
    known = baseline_of([Minute(n=100, errors=7, hist=histogram(b3=100), probes_n=3)] * 20)
    assert Baseline.model_validate(json.loads(json.dumps(known.model_dump(mode="json")))) == known


def test_a_baseline_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValidationError, match="does not add up"):
        Baseline(minutes=1, n=3, errors=4)
