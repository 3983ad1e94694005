"""Simulated services for the bake: the six noise worlds and the bad releases of the reference's section 9.

Poisson traffic, log-normal answer times (median 120 ms, p95 447 ms). Counts of each class are independent Poisson
numbers, so a look costs six draws; they go through the real Look, Baseline and Watch.
"""

import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import ceil, erfc, exp, lgamma, log, sqrt

from blocks.histogram import EDGES
from flows.bake.baseline import ENOUGH, Baseline, Minute, baseline_of
from flows.bake.looks import BakeRules, Look
from flows.bake.rule import Watch

MEDIAN_S, SIGMA = 0.120, log(447 / 120) / 1.6448536
INCIDENT_S, FAILING, SLOWER, SEEN, PROBES = 45.0, 0.3, 3.0, 0.5, 4  # an hour has one on average
LOOK_S = 10


@dataclass(frozen=True)
class World:
    """A service, and what makes noise in it for a healthy release as well."""

    name: str
    rps: float = 5
    errors: float = 0.001
    clustered: bool = False
    incidents: bool = False
    cold: bool = False
    drift: float = 1.0


@dataclass(frozen=True)
class Fault:
    """What a bad release does from its first second on: its error rate, and a tenth of its answers that much slower."""

    errors: float | None = None
    tail: float = 1.0


HEALTHY = Fault()
NOISE = (
    World("clean 0.1 %"),
    World("clean 0.5 %", errors=0.005),
    World("clustered 0.5 %", errors=0.005, clustered=True),
    World("shared incidents", incidents=True),
    World("cold start", cold=True),
    World("drift +8 %", drift=1.08),
)

Span = tuple[float, float]
Classes = tuple[tuple[int, float], ...]  # a bucket, and the share of requests that fall there


def rolled_back_at(world: World, fault: Fault, baseline: Baseline, seed: int, rules: BakeRules) -> float | None:
    """Seconds from go-live to the rollback; None when there is none within the watch."""
    watch = Watch(baseline, rules)
    for look in looks(world, fault, baseline, random.Random(seed), rules.maximum_s):  # noqa: S311 - a simulation
        if watch.add(look) != "watching":
            break
    return watch.judgement().at if watch.state == "rollback" else None


def baseline(world: World, seed: int) -> Baseline:
    """Of the stable version in the same world, by the real rule."""
    rng = random.Random(f"baseline {seed}")  # noqa: S311 - a simulation
    least = max(60, ceil(1.1 * ENOUGH / (60 * world.rps)))
    spans = _incidents(world, rng, 60.0 * least)
    return baseline_of(_minutes(world, rng, spans, 60 * least))


def looks(world: World, fault: Fault, known: Baseline, rng: random.Random, watch_s: float) -> Iterator[Look]:
    """The looks at a release, in order."""
    spans = _incidents(world, rng, watch_s)
    rate = world.errors if fault.errors is None else fault.errors
    for start in range(0, int(watch_s), LOOK_S):
        bad = round(10 * _overlap(spans, start, start + LOOK_S) / LOOK_S) / 10  # in tenths: the draws' tables are kept
        usual = world.drift * (1 + 1.5 * exp(-(start + 5) / 30) if world.cold else 1.0)
        hist = [0] * 61
        errors = 0
        for share, slower, failing in ((1 - bad, 1.0, 0.0), (bad, SLOWER, FAILING)):
            if share:
                failed = _errors(rng, LOOK_S * world.rps * share * (rate + failing), clustered=world.clustered)
                good = LOOK_S * world.rps * share * (1 - rate - failing)
                _fill(hist, rng, _classes(usual * slower, fault.tail, *_edges(known.hist)), good, failed)
                errors += failed
        seen = sum(rng.random() < SEEN * bad for _ in range(PROBES))
        yield Look(
            at=start + LOOK_S, n=sum(hist), errors=errors, hist=tuple(hist), dependency_n=PROBES, dependency_bad=seen
        )


def poisson(rng: random.Random, mean: float) -> int:
    """A Poisson number, from a table; from 500 on, the nearest normal one."""
    if mean > 500:
        return max(0, round(rng.gauss(mean, sqrt(mean))))
    low, table = _table(mean)
    return low + bisect(table, rng.random())


def _fill(hist: list[int], rng: random.Random, classes: Classes, good: float, failed: int) -> None:
    """Adds `good` requests, as a mean, and just so many failed ones; they take as long."""
    for place, share in classes:
        hist[place] += poisson(rng, good * share)
    for _ in range(failed):
        drawn = rng.random()
        hist[next(place for place, share in (*classes, (classes[0][0], 1.0)) if (drawn := drawn - share) < 0)] += 1


def _errors(rng: random.Random, mean: float, *, clustered: bool) -> int:
    if not clustered:
        return poisson(rng, mean)
    clusters = poisson(rng, mean / 5)
    return sum(1 + int(log(1 - rng.random()) / log(0.8)) for _ in range(clusters))


def _minutes(world: World, rng: random.Random, spans: Sequence[Span], length_s: int) -> Iterator[Minute]:
    """Newest first; the first one holds the whole histogram, as only its sum counts."""
    share = _overlap(spans, 0, length_s) / length_s
    requests = max(60 * 60 * world.rps, ENOUGH)
    usual, slow = _shape(1.0), _shape(SLOWER)
    hist = tuple(
        poisson(rng, requests * ((1 - share) * a + share * b)) if share else poisson(rng, requests * a)
        for a, b in zip(usual, slow, strict=True)
    )
    for start in range(0, length_s, 60):
        rate = world.errors + FAILING * _overlap(spans, start, start + 60) / 60
        errors = _errors(rng, 60 * world.rps * rate, clustered=world.clustered)
        n = errors + poisson(rng, 60 * world.rps * (1 - rate))
        yield Minute.model_construct(n=n, errors=errors, hist=() if start else hist)


def _incidents(world: World, rng: random.Random, length_s: float) -> list[Span]:
    """When shared incidents are; one may have begun before."""
    spans: list[Span] = []
    start = -600.0
    while world.incidents and (start := start + rng.expovariate(1 / 3600)) < length_s:
        end = start + rng.expovariate(1 / INCIDENT_S)
        if end > 0:
            spans.append((max(start, 0.0), min(end, length_s)))
        start = end
    return spans


def _overlap(spans: Sequence[Span], start: float, end: float) -> float:
    return sum(max(0.0, min(end, until) - max(start, since)) for since, until in spans)


def _above(seconds: float, slower: float) -> float:
    return 0.5 * erfc(log(seconds / (MEDIAN_S * slower)) / (SIGMA * sqrt(2)))


@lru_cache
def _shape(slower: float) -> tuple[float, ...]:
    """The share of each bucket."""
    above = [1.0, *(_above(edge, slower) for edge in EDGES), 0.0]
    return tuple(a - b for a, b in pairwise(above))


@lru_cache(maxsize=10_000)
def _classes(slower: float, tail: float, fifty: int, ninety_five: int) -> Classes:
    """What is at most the baseline's p50 edge, between the edges, and above its p95 edge: (bucket, share) each."""
    half, slow = (
        0.9 * _above(EDGES[edge], slower) + 0.1 * _above(EDGES[edge], slower * tail) for edge in (fifty, ninety_five)
    )
    return (fifty, 1 - half), (ninety_five, half - slow), (ninety_five + 1, slow)


@lru_cache(maxsize=100)
def _edges(hist: tuple[int, ...]) -> tuple[int, int]:
    counted = list(accumulate(hist))
    fifty, ninety_five = (
        next(i for i, n in enumerate(counted) if 100 * n >= percent * counted[-1]) for percent in (50, 95)
    )
    return fifty, ninety_five


@lru_cache(maxsize=20_000)
def _table(mean: float) -> tuple[int, list[float]]:
    if mean <= 0:
        return 0, [1.0]
    low = max(0, int(mean - 10 * sqrt(mean) - 10))
    high = int(mean + 10 * sqrt(mean) + 12)
    return low, list(accumulate(exp(n * log(mean) - mean - lgamma(n + 1)) for n in range(low, high)))
