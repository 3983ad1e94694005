"""The bake's promises, simulated: how often a healthy release is rolled back, and how soon a bad one (reference, 9).

BENCH_BAKE_RUNS is how many releases a cell has (2000), each watched for half an hour in looks of 10 s. Four runs share
a baseline. At most 8 of 2000 may be false: a true 0.2 % stays there in 98 % of draws. Seeds are fixed. Twelve minutes
of one core; the cores that are there share them.
"""

import os
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from math import ceil, inf, log

import pytest

from flows.bake.evidence import Evidence
from flows.bake.looks import BakeRules
from tests.decide.bake_worlds import HEALTHY, NOISE, Fault, World, baseline, poisson, rolled_back_at

RUNS = int(os.environ.get("BENCH_BAKE_RUNS", "2000"))
SHARED = 4  # runs that share a baseline
MOST_FALSE = 8
HALF_AN_HOUR = BakeRules(minimum_s=1800, maximum_s=1800)


def _share(world: World, fault: Fault, numbers: Sequence[int]) -> list[float]:
    """The times of rollback of some runs; infinite where there is none."""
    known = {number: baseline(world, number) for number in {each // SHARED for each in numbers}}
    return [rolled_back_at(world, fault, known[each // SHARED], each, HALF_AN_HOUR) or inf for each in numbers]


def times(world: World, fault: Fault, runs: int) -> list[float]:
    """Sorted."""
    parts = [range(start, min(start + 40, runs)) for start in range(0, runs, 40)]
    with ProcessPoolExecutor() as pool:
        return sorted(chain.from_iterable(pool.map(partial(_share, world, fault), parts)))


@pytest.mark.parametrize("rps", [0.2, 5, 200])
@pytest.mark.parametrize("world", NOISE, ids=lambda world: world.name)
def test_a_healthy_release_is_hardly_ever_rolled_back(world: World, rps: float) -> None:
    false = sum(each < inf for each in times(replace(world, rps=rps), HEALTHY, RUNS))
    print(f"{world.name:20} {rps:5} rps: {false} of {RUNS} rolled back in 30 min")  # noqa: T201
    assert false <= MOST_FALSE


@pytest.mark.parametrize(
    ("rps", "fault", "median_s"),
    [
        (5, Fault(errors=0.05), 45),
        (200, Fault(errors=0.05), 30),
        (200, Fault(errors=0.01), 40),
        (5, Fault(errors=0.01), 600),
        (5, Fault(tail=6.68), 240),
        (200, Fault(tail=6.68), 120),
    ],
    ids=str,
)
def test_a_bad_release_is_rolled_back_soon(rps: float, fault: Fault, median_s: float) -> None:
    runs = RUNS // 2
    found = times(World("clean", rps=rps), fault, runs)
    median, late = statistics.median(found), found[ceil(0.95 * runs) - 1]
    caught = sum(each < inf for each in found) / runs
    print(f"{fault} at {rps} rps: median {median:g} s, p95 {late:g} s, {caught:.1%} in 30 min")  # noqa: T201
    assert median <= median_s
    assert caught > 0.95


def test_a_release_exactly_as_bad_as_tolerated_keeps_alpha() -> None:
    """At p0 itself over 180 looks; Ville's inequality says 0.5 % at most."""
    rng, p0, crossed = random.Random(1), 0.01, 0  # noqa: S311 - a simulation
    for _ in range(RUNS):
        evidence = Evidence(p0)
        bad = [poisson(rng, 50 * p0) for _ in range(180)]
        path = [
            evidence.add(10.0 * place, each + poisson(rng, 50 * (1 - p0)), each)
            for place, each in enumerate(bad, start=1)
        ]
        crossed += max(path) >= log(200)
    print(f"exactly at p0: {crossed} of {RUNS} ever reached 200 : 1")  # noqa: T201
    assert crossed <= 0.005 * RUNS
