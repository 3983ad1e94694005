"""What a bake is given: the stage's rules, and looks at the new release. Frozen values that travel as JSON.

A look covers the time since the look before it; its counts are of that time alone, so that looks add up and a stored
one counts once. A source that could not be read is a look with `read=False`, never one with no errors.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from flows.records import Record

Signal = Literal["error", "slow95", "slow50", "probe"]
Policy = Literal["extend", "hold", "accept", "rollback"]
Profile = Literal["strict", "default", "fast"]

BUCKETS = 61  # of every histogram of answer times
ALPHA: dict[Signal, float] = {"error": 0.005, "slow95": 0.0025, "slow50": 0.0025, "probe": 0.001}
FACTOR: dict[Profile, float] = {"strict": 0.1, "default": 1.0, "fast": 10.0}

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Histogram = tuple[Count, ...]  # counts by bucket; empty where the source has none


class BakeRules(Record):
    """How long a release is watched, what is tolerated, what becomes of one that proved nothing."""

    look_s: Annotated[float, Field(gt=0)] = 10
    minimum_s: Annotated[float, Field(gt=0)] = 600
    maximum_s: Annotated[float, Field(gt=0)] = 3600
    policy: Policy = "extend"
    profile: Profile = "default"
    healthy_error_rate: Share = 0.02
    objective_error_rate: Share = 0.01
    minimum_baseline: Annotated[int, Field(ge=1)] = 1000
    frozen_limit_s: Annotated[float, Field(ge=0)] = 420

    @property
    def end_s(self) -> float:
        """When a watch without a verdict ends: only the policy `extend` goes on after the minimum."""
        return self.maximum_s if self.policy == "extend" else self.minimum_s

    def alpha(self, signal: Signal) -> float:
        """How often a release as good as the stable one may be rolled back for this signal."""
        return ALPHA[signal] * FACTOR[self.profile]


class Look(Record):
    """What was seen of the new release since the look before; `at` is its end, in seconds since go-live."""

    at: Annotated[float, Field(gt=0)]
    read: bool = True  # whether the source answered, and whole
    n: Count = 0
    errors: Count = 0  # status 500 or above, and time-outs
    hist: Histogram = ()
    probes_n: Count = 0  # our own requests to the release: a stream of their own
    probes_bad: Count = 0
    dependency_n: Count = 0  # probes of what both versions rest on: database, cache, third parties
    dependency_bad: Count = 0
    health_failures: Count = 0  # health probes in a row, 1 s apart, that had failed at its end

    @model_validator(mode="after")
    def _adds_up(self) -> "Look":
        parts = {"errors": (self.errors, self.n), "histogram": (sum(self.hist), self.n)}
        parts |= {"probes": (self.probes_bad, self.probes_n), "dependency": (self.dependency_bad, self.dependency_n)}
        for name, (part, whole) in parts.items():
            if part > whole:
                raise ValueError(f"look at {self.at:g} s: {name} {part} of {whole}")
        if self.n and not self.read:
            raise ValueError(f"look at {self.at:g} s: {self.n} requests of a source that was not read whole")
        if len(self.hist) not in {0, BUCKETS}:
            raise ValueError(f"look at {self.at:g} s: a histogram of {len(self.hist)} buckets, expected {BUCKETS}")
        return self
