"""A judgement in words: the one form, and what it must not hide."""

from typing import Any

import pytest

from flows.bake.baseline import Baseline
from flows.bake.looks import BakeRules, Look
from flows.bake.rule import judge
from flows.bake.sentence import amount, odds, percent, sentence

HIST = tuple(9500 if place == 20 else 500 if place == 40 else 10_000 if place == 10 else 0 for place in range(61))
STABLE = Baseline(minutes=67, n=20_000, errors=4, hist=HIST, probes_n=2400)
EXAMPLE_A = ((51, 1), (49, 2), (52, 4), (51, 4))
NOTHING: dict[str, Any] = {}
FAST: dict[str, Any] = {"n": 50, "hist": tuple(25 if place in {10, 20} else 0 for place in range(61)), "probes_n": 6}


def said(*many: dict[str, Any], baseline: Baseline = STABLE, **rules: Any) -> str:
    looks = [{"at": 10 * place, "dependency_n": 4, **each} for place, each in enumerate(many, start=1)]
    asked = BakeRules.model_validate({"minimum_s": 120, "maximum_s": 120, **rules})
    return sentence(judge(baseline, map(Look.model_validate, looks), asked))


def test_example_a_is_said_as_the_reference_says_it() -> None:
    assert said(*({"n": n, "errors": bad} for n, bad in EXAMPLE_A)) == (
        "ROLLED BACK 40 s after go-live: errors 11 of 203 (5.4 %; the data allow 1.8-11.8 %)."
        " Stable version: 4 of 20 000 (at most 0.07 %). Tolerated 0.27 %. Evidence 1305 : 1 (rollback at 200 : 1)."
        " Dependencies healthy, 0 looks frozen."
        " Not tested: latency (no answer time was counted after the first 60 s), probes (none was counted)."
    )


def test_a_healthy_release_is_kept_and_what_cannot_be_excluded_is_said() -> None:
    assert said(*[FAST] * 12) == (
        "KEPT 2 min after go-live, healthy: errors 0 of 600 (0 %; the data allow 0-0.80 %)."
        " Stable version: 4 of 20 000 (at most 0.07 %). Tolerated 0.27 %. Evidence 0.5 : 1 (rollback at 200 : 1)."
        " Latency: no evidence (0.5 : 1). Probes: 0 of 72 failed, no evidence (0.7 : 1)."
        " Dependencies healthy, 0 looks frozen. What we still cannot exclude: error rate up to 0.67 %."
    )


def test_a_slow_release_is_said_by_its_latency() -> None:
    slow = {**FAST, "hist": tuple(25 if place in {10, 41} else 0 for place in range(61))}
    found = said(*[slow] * 9)
    assert found.startswith(
        "ROLLED BACK 1 min 30 s after go-live: slower than the stable version's p95 75 of 150 (50 %; the data allow"
    )
    assert "Stable version: 500 of 20 000 (at most 2.8 %). Tolerated 4.2 %." in found
    assert "(rollback at 400 : 1). Errors: no evidence (0.5 : 1). Probes:" in found


def test_what_no_baseline_could_say_is_the_objective() -> None:
    found = said(*[FAST] * 12, baseline=Baseline(minutes=3, n=300, hist=(0,) * 61))
    assert "Tolerated 1 %, as the stable version has 300 requests, fewer than 1000. Evidence" in found
    assert "Not tested: latency (the stable version has 0 answer times, fewer than 1000)." in found
    assert "Stable version:" not in found


def test_the_first_release_is_kept_with_a_warning() -> None:
    found = said(*[FAST] * 12, baseline=Baseline(first=True))
    assert found.startswith(
        "KEPT 2 min after go-live, inconclusive (first release):"
        " there is no stable version to compare with or to go back to. Errors 0 of 600"
    )


@pytest.mark.parametrize(
    ("policy", "head"),
    [
        ("extend", "KEPT 2 min after go-live, inconclusive (policy extend): no request was seen. Errors 0 of 0."),
        ("hold", "HELD 2 min after go-live, inconclusive (policy hold): no request was seen. A person decides."),
        ("rollback", "ROLLED BACK 2 min after go-live, inconclusive (policy rollback): no request was seen."),
    ],
)
def test_without_data_it_says_so(policy: str, head: str) -> None:
    found = said(*[NOTHING] * 12, policy=policy)
    assert found.startswith(head)
    assert ("What we still cannot exclude: any error rate." in found) == (policy != "rollback")
    assert "errors (no request was counted)" in found


def test_a_source_that_could_not_be_read_is_counted() -> None:
    found = said({"read": False}, FAST)
    assert found.startswith("WATCHING, 20 s after go-live: an error rate of 2 % cannot be excluded. Errors 0 of 50")
    assert "The source of requests could not be read in 1 of 2 looks." in found


def test_a_hard_down_says_what_was_seen() -> None:
    found = said({"n": 12, "errors": 12, "health_failures": 5})
    assert found.startswith(
        "ROLLED BACK 10 s after go-live, hard down: 5 health probes in a row failed, and no request succeeded."
        " Errors 12 of 12 (100 %;"
    )


@pytest.mark.parametrize(
    ("dependency", "words"),
    [
        ({"dependency_n": 0}, "Dependencies not probed, 0 looks frozen."),
        ({"dependency_n": 4, "dependency_bad": 1}, "Dependencies failed 3 of 12 probes, 3 looks frozen (30 s)."),
        (
            {"dependency_n": 3},
            "Dependencies healthy (too few probes to see what hits both versions), 0 looks frozen.",
        ),
    ],
)
def test_dependencies_and_frozen_looks_are_always_said(dependency: dict[str, int], words: str) -> None:
    assert words in said(*[{**FAST, **dependency}] * 3)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "0 %"),
        (0.054, "5.4 %"),
        (0.00067, "0.07 %"),
        (0.00003, "0.003 %"),
        (1, "100 %"),
        (0.118, "11.8 %"),
        (0.02, "2 %"),
    ],
)
def test_percentages_keep_the_digits_that_say_something(share: float, words: str) -> None:
    assert percent(share) == words


@pytest.mark.parametrize(
    ("log_e", "words"),
    [
        (7.17378, "1305 : 1"),
        (0, "1.0 : 1"),
        (-1.2, "0.3 : 1"),
        (-9, "below 0.1 : 1"),
        (10.5, "36 316 : 1"),
        (1e9, "more than 1 000 000 : 1"),
        (2.2999, "10 : 1"),
    ],
)
def test_evidence_is_said_as_odds(log_e: float, words: str) -> None:
    assert odds(log_e) == words


def test_numbers_are_grouped_from_five_digits_on() -> None:
    assert [amount(number) for number in (203, 1305, 20_000, 1_234_567)] == ["203", "1305", "20 000", "1 234 567"]


@pytest.mark.parametrize("policy", ["extend", "hold", "accept", "rollback"])
def test_of_a_release_that_stays_nothing_is_said_that_does_not_happen(policy: str) -> None:
    asked = BakeRules.model_validate({"minimum_s": 40, "maximum_s": 40, "policy": policy})
    bad = [Look(at=10 * place, n=n, errors=k) for place, (n, k) in enumerate(EXAMPLE_A, start=1)]
    down = [Look(at=10, n=1, errors=1, health_failures=5)]
    assert sentence(judge(STABLE, bad, asked), stays=True).startswith("BAD 40 s after go-live: errors 11 of 203")
    assert sentence(judge(STABLE, down, asked), stays=True).startswith("BAD 10 s after go-live, hard down: 5 health")
    nothing = sentence(judge(STABLE, [Look(at=40)], asked), stays=True)
    assert nothing.startswith("UNPROVEN 40 s after go-live, inconclusive: no request was seen.")
    assert "A person decides" not in nothing
