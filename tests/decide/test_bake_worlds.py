"""A quick simulation of the bake: healthy releases in six noisy worlds stay, bad ones go soon. `make bench` has more.

100 runs a world, 60 looks a run, 5 requests a second, fixed seeds: a failure here is a change, never chance.
"""

import statistics

import pytest

from flows.bake.looks import BakeRules
from tests.decide.bake_worlds import HEALTHY, NOISE, Fault, World, baseline, rolled_back_at

RUNS = 100
TEN_MINUTES = BakeRules(minimum_s=600, maximum_s=600)
NEVER = float("inf")


@pytest.mark.parametrize("world", NOISE, ids=lambda world: world.name)
def test_a_healthy_release_is_never_rolled_back(world: World) -> None:
    known = [baseline(world, seed) for seed in range(RUNS // 4)]
    false = [
        seed for seed in range(RUNS) if rolled_back_at(world, HEALTHY, known[seed // 4], seed, TEN_MINUTES) is not None
    ]
    assert not false


def test_the_noise_is_real_without_freezing_shared_incidents_take_healthy_releases_down() -> None:
    blind = TEN_MINUTES.model_copy(update={"frozen_limit_s": 0})
    known = baseline(NOISE[3], 0)
    assert any(rolled_back_at(NOISE[3], HEALTHY, known, seed, blind) for seed in range(20))


@pytest.mark.parametrize(
    ("world", "fault", "median_s"),
    [
        (NOISE[0], Fault(errors=0.05), 45),
        (World("busy", rps=200), Fault(errors=0.05), 30),
        (World("busy", rps=200), Fault(errors=0.01), 40),
        (NOISE[0], Fault(tail=6.68), 240),
    ],
    ids=["0.1->5 % at 5 rps", "0.1->5 % at 200 rps", "0.1->1 % at 200 rps", "p95 x 2 at 5 rps"],
)
def test_a_bad_release_is_rolled_back_soon(world: World, fault: Fault, median_s: float) -> None:
    known = [baseline(world, seed) for seed in range(RUNS // 4)]
    times = [rolled_back_at(world, fault, known[seed // 4], seed, TEN_MINUTES) or NEVER for seed in range(RUNS)]
    assert statistics.median(times) <= median_s
