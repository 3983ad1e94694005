"""What the stable version did before the go-live, and the rates that follow from it. Pure; reference, 3.1.

Written once, before the first look. It counts the stable version only, from that version's own go-live on.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Annotated

from pydantic import Field, model_validator

from flows.bake.bounds import clopper_pearson
from flows.bake.looks import BUCKETS, BakeRules, Count, Histogram, Signal
from flows.records import Record

BEFORE_GO_LIVE_S = 2.0  # minutes are counted back from here: the last seconds may be the switch's own
ENOUGH = 20_000  # requests
LEAST_MINUTES, MOST_MINUTES = 60, 7 * 24 * 60
ALPHA_BASE = 0.0025  # of each bound of the stable version's rates

_FEW = 5  # bad events, below which their clustering cannot be told
_MOST_PHI = 30.0


class Minute(Record):
    """One minute of the stable version; an empty one is handed over too, as the rate counts it."""

    n: Count = 0
    errors: Count = 0
    hist: Histogram = ()
    probes_n: Count = 0
    probes_bad: Count = 0


class Baseline(Record):
    """Counts of the stable version; `first` where there is none, as this release is the service's first."""

    minutes: Count = 0
    n: Count = 0
    errors: Count = 0
    phi: Annotated[float, Field(ge=1, le=_MOST_PHI)] = 1.0  # how much more errors vary by minute than by chance alone
    hist: Histogram = ()
    probes_n: Count = 0
    probes_bad: Count = 0
    probes_phi: Annotated[float, Field(ge=1, le=_MOST_PHI)] = 1.0
    first: bool = False

    @model_validator(mode="after")
    def _adds_up(self) -> "Baseline":
        if self.errors > self.n or self.probes_bad > self.probes_n or len(self.hist) not in {0, BUCKETS}:
            raise ValueError(f"a baseline of {self.n} requests does not add up")
        return self

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.n / (60 * self.minutes) if self.minutes else 0.0


class Tolerance(Record):
    """The rate `p0` that one signal may have, and where it comes from; `why` where that is not the stable version.

    Not tested, and `why` says so, where p0 is None. For latency, an answer is bad when its bucket is above `edge`.
    """

    signal: Signal
    p0: float | None = None
    phi: float = 1.0
    n: Count = 0  # of the stable version
    bad: Count = 0
    upper: float = 1.0  # the stable version's rate is at most this
    edge: int = BUCKETS
    why: str = ""


def baseline_of(minutes: Iterable[Minute], *, first: bool = False) -> Baseline:
    """What the minutes count, newest first, as many of them as are wanted; the iterable is read no further."""
    taken: list[Minute] = []
    n = 0
    for minute in minutes:
        taken.append(minute)
        n += minute.n
        if len(taken) >= MOST_MINUTES or (n >= ENOUGH and len(taken) >= LEAST_MINUTES):
            break
    probes = [(each.probes_n, each.probes_bad) for each in taken]
    return Baseline(
        minutes=len(taken),
        n=n,
        errors=sum(each.errors for each in taken),
        phi=dispersion([(each.n, each.errors) for each in taken]),
        hist=_sum_of([each.hist for each in taken if each.hist]),
        probes_n=sum(each for each, _ in probes),
        probes_bad=sum(bad for _, bad in probes),
        probes_phi=dispersion(probes),
        first=first,
    )


def dispersion(counts: Sequence[tuple[int, int]]) -> float:
    """The phi of (n, bad) by minute: 1 where bad events fall as by chance, more where they cluster."""
    n, bad = sum(n for n, _ in counts), sum(bad for _, bad in counts)
    if bad < _FEW or bad == n:
        return 1.0
    p = bad / n
    squares = sum((k - m * p) ** 2 for m, k in counts)
    return min(max(squares / (n * p * (1 - p)), 1.0), _MOST_PHI)


def tolerances(baseline: Baseline, rules: BakeRules) -> tuple[Tolerance, ...]:
    """What each signal may show, in the order of looks.Signal."""
    error = _errors(baseline, rules)
    probe = _probes(baseline, rules, error.p0 or rules.objective_error_rate)
    return error, _latency("slow95", baseline, rules), _latency("slow50", baseline, rules), probe


def _errors(baseline: Baseline, rules: BakeRules) -> Tolerance:
    found = Tolerance(signal="error", n=baseline.n, bad=baseline.errors)
    if why := _too_few(baseline, baseline.n, rules, "requests"):
        return found.model_copy(update={"p0": rules.objective_error_rate, "why": why})
    return _tolerated(found, baseline.phi)


def _probes(baseline: Baseline, rules: BakeRules, of_errors: float) -> Tolerance:
    """The stable version's own probes, or else the objective; never less than its requests are allowed."""
    found = Tolerance(signal="probe", n=baseline.probes_n, bad=baseline.probes_bad)
    if why := _too_few(baseline, baseline.probes_n, rules, "probes"):
        return found.model_copy(update={"p0": max(rules.objective_error_rate, of_errors), "why": why})
    return _tolerated(found, baseline.probes_phi)


def _tolerated(found: Tolerance, phi: float) -> Tolerance:
    upper = clopper_pearson(found.bad / phi, found.n / phi, ALPHA_BASE)
    p0 = _within(max(1.5 * upper, upper + 0.002), 0.9)
    return found.model_copy(update={"p0": p0, "phi": phi, "upper": upper})


def _latency(signal: Signal, baseline: Baseline, rules: BakeRules) -> Tolerance:
    n = sum(baseline.hist)
    found = Tolerance(signal=signal, n=n)
    if why := _too_few(baseline, n, rules, "answer times"):
        return found.model_copy(update={"why": why})
    edge = _edge(baseline.hist, 95 if signal == "slow95" else 50)
    if edge == BUCKETS - 1:
        return found.model_copy(update={"why": f"the stable version's p{signal[-2:]} is past the last edge"})
    bad = sum(baseline.hist[edge + 1 :])
    upper = clopper_pearson(bad, n, ALPHA_BASE)
    p0 = _within(1.5 * upper if signal == "slow95" else upper + 0.05, 0.95)
    return found.model_copy(update={"p0": p0, "bad": bad, "upper": upper, "edge": edge})


def _too_few(baseline: Baseline, n: int, rules: BakeRules, what: str) -> str:
    if baseline.first:
        return "there is no stable version"
    if n < rules.minimum_baseline:
        return f"the stable version has {n} {what}, fewer than {rules.minimum_baseline}"
    return ""


def _edge(hist: Histogram, percent: int) -> int:
    """The first bucket at which so many percent have been counted."""
    whole = sum(hist)
    return next(bucket for bucket, counted in enumerate(accumulate(hist)) if 100 * counted >= percent * whole)


def _within(rate: float, most: float) -> float:
    return min(max(rate, 1e-6), most)


def _sum_of(histograms: Sequence[Histogram]) -> Histogram:
    return tuple(sum(counts) for counts in zip(*histograms, strict=True))
