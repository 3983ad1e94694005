"""The rule: what becomes of a release after each look. Pure; reference, 3.4 and 3.5.

What always holds. Looks count once and in their order; whoever replays the stored ones gets the same judgement, made
at the same look, and the evidence to the last digit: a bake that died continues so. What freezes a look is seen outside
of the stream under test, and for `frozen_limit_s` of one watch at most. Without data nothing is called healthy.
"""

from collections.abc import Iterable
from math import log
from typing import Literal

from flows.bake.baseline import Baseline, tolerances
from flows.bake.bounds import against, upper
from flows.bake.looks import BakeRules, Look, Policy
from flows.bake.signals import Reading, Stream
from flows.records import Record

State = Literal["watching", "healthy", "inconclusive", "rollback", "hard_down"]
Action = Literal["wait", "keep", "hold", "rollback"]
Alarm = Literal["", "TRAFFIC_LOST", "SOURCE_LOST"]

STRONG = 20  # : 1, what is called strong evidence, for a fault or for health
DOWN_AFTER = 5  # health probes that failed in a row
FROZEN_AFTER = 3  # looks that a failed dependency freezes after its own
EXPECTED = 20  # requests whose absence is no chance

_AT_THE_END: dict[Policy, Action] = {"extend": "keep", "accept": "keep", "hold": "hold", "rollback": "rollback"}
_ACTION: dict[State, Action] = {
    "watching": "wait",
    "healthy": "keep",
    "rollback": "rollback",
    "hard_down": "rollback",
}


class Judgement(Record):
    """What a bake knows at a look, and what to do: `wait` for the next, `keep`, `hold` for a person, `rollback`."""

    state: State
    action: Action
    reason: str  # why it is no better than this; empty when healthy
    alarm: Alarm = ""
    at: float = 0.0  # seconds since go-live
    times: tuple[float, ...] = ()  # of the looks' ends
    frozen: tuple[bool, ...] = ()  # by look
    frozen_s: float = 0.0
    unread: int = 0  # looks whose source could not be read
    dependency_n: int = 0
    dependency_bad: int = 0
    readings: tuple[Reading, ...] = ()  # error, slow95, slow50, probe
    baseline: Baseline
    rules: BakeRules

    @property
    def errors(self) -> Reading:
        """The signal that every release has."""
        return self.readings[0]

    @property
    def is_against_it(self) -> bool:
        """By evidence alone: a policy that takes back what proved nothing has no say here."""
        return self.state in {"rollback", "hard_down"}

    @property
    def may_still_be(self) -> float:
        """The error rate that cannot be excluded, with 95 % at whatever look."""
        return upper(self.errors.bad, self.errors.n, 1 / STRONG)


def judge(baseline: Baseline, looks: Iterable[Look], rules: BakeRules) -> Judgement:
    """The judgement after these looks; those after the one that decided change nothing."""
    watch = Watch(baseline, rules)
    for look in sorted(looks, key=lambda look: look.at):
        watch.add(look)
    return watch.judgement()


class Watch:
    """A bake under way: looks in, the state out. Values only; `judgement` is what to store and show."""

    def __init__(self, baseline: Baseline, rules: BakeRules) -> None:
        self.baseline, self.rules = baseline, rules
        self.state: State = "watching"
        self._signals = [Stream(each, rules.alpha(each.signal)) for each in tolerances(baseline, rules)]
        self._looks: list[Look] = []
        self._frozen: list[bool] = []
        self._frozen_s = 0.0
        self._thawing = 0  # looks that are still to be frozen
        self._silent_s = 0.0  # since the last request was seen, by a source that was read

    def add(self, look: Look) -> State:
        """Count the next look and decide. What was decided stays: later looks change nothing."""
        if self.state != "watching":
            return self.state
        length = look.at - self._at
        if length <= 0:
            raise ValueError(f"a look at {look.at:g} s after one at {self._at:g} s: each counts once, in order")
        frozen = self._freezes(look, length)
        self._looks.append(look)
        self._frozen.append(frozen)
        self._silent_s = 0.0 if look.n else self._silent_s + (length if look.read else 0.0)
        for stream in self._signals:
            stream.add(look, frozen=frozen)
        self.state = self._decide(look)
        return self.state

    def judgement(self) -> Judgement:
        """All that is known now."""
        ended = self.state == "inconclusive"
        return Judgement(
            state=self.state,
            action=self._at_the_end if ended else _ACTION[self.state],
            reason=self._reason(),
            alarm=self._alarm,
            at=self._at,
            times=tuple(look.at for look in self._looks),
            frozen=tuple(self._frozen),
            frozen_s=self._frozen_s,
            unread=sum(not look.read for look in self._looks),
            dependency_n=sum(look.dependency_n for look in self._looks),
            dependency_bad=sum(look.dependency_bad for look in self._looks),
            readings=tuple(stream.reading() for stream in self._signals),
            baseline=self.baseline,
            rules=self.rules,
        )

    @property
    def _at(self) -> float:
        return self._looks[-1].at if self._looks else 0.0

    @property
    def _at_the_end(self) -> Action:
        return "keep" if self.baseline.first else _AT_THE_END[self.rules.policy]

    def _freezes(self, look: Look, length: float) -> bool:
        self._thawing = FROZEN_AFTER + 1 if look.dependency_bad else self._thawing
        if not self._thawing or self._frozen_s + length > self.rules.frozen_limit_s + 1e-6:
            self._thawing = max(self._thawing - 1, 0)
            return False
        self._thawing -= 1
        self._frozen_s += length
        return True

    def _decide(self, look: Look) -> State:
        """The first release has nothing to go back to: it is kept after the minimum, whatever is found."""
        if not self.baseline.first:
            if _is_down(look):
                return "hard_down"
            if any(stream.crossed for stream in self._signals):
                return "rollback"
            if look.at >= self.rules.minimum_s and not self._doubt():
                return "healthy"
        end_s = self.rules.minimum_s if self.baseline.first else self.rules.end_s
        return "inconclusive" if look.at >= end_s else "watching"

    def _reason(self) -> str:
        if self.state == "hard_down":
            return f"{self._looks[-1].health_failures} health probes in a row failed, and no request succeeded"
        if self.state == "rollback":
            return " and ".join(f"{each.signal} has reached its threshold" for each in self._signals if each.crossed)
        if self.state == "watching" and self._at < self.rules.minimum_s and not self._doubt():
            return "the minimum bake is not over"
        return self._doubt()

    def _doubt(self) -> str:
        """Why it cannot be called healthy; empty when it can. First what is missing, then what was found."""
        return self._missing() or self._silence() or self._unproven()

    def _missing(self) -> str:
        if self.baseline.first:
            down = " (it is down)" if self._looks and _is_down(self._looks[-1]) else ""
            return f"there is no stable version to compare with or to go back to{down}"
        if not self.baseline.n:
            return "nothing is known of the stable version"
        if self._looks and not any(look.read for look in self._looks):
            return f"the source of requests could not be read in any of {len(self._looks)} looks"
        if not any(look.n for look in self._looks):
            return "no request was seen"
        return "" if self._signals[0].n else "every request came while a dependency failed"

    def _silence(self) -> str:
        last = self._looks[-1]
        if self._alarm == "SOURCE_LOST":
            return "the source of requests could not be read in the last look"
        if self._alarm:
            return f"no request came for {self._silent_s:g} s, where about {self._expected:.0f} were expected"
        if last.dependency_bad or self._frozen[-1]:
            return "a dependency failed in the last looks"
        return ""

    def _unproven(self) -> str:
        for stream in self._signals:
            if stream.log_e > log(STRONG):
                return f"there is strong evidence against it ({stream.signal})"
        errors, wanted = self._signals[0], self.rules.healthy_error_rate
        proven = against(errors.bad, errors.n, wanted) >= log(STRONG) and errors.bad < wanted * errors.n
        return "" if proven else f"an error rate of {100 * wanted:g} % cannot be excluded"

    @property
    def _alarm(self) -> Alarm:
        if self._looks and not self._looks[-1].read:
            return "SOURCE_LOST"
        return "TRAFFIC_LOST" if self._silent_s and self._expected >= EXPECTED else ""

    @property
    def _expected(self) -> float:
        """Requests that should have come in the silence: as the stable version had, or else this one before."""
        seen = self.baseline.rate or sum(look.n for look in self._looks) / max(self._at - self._silent_s, 1.0)
        return self._silent_s * seen


def _is_down(look: Look) -> bool:
    """Seen from two sides; a source that could not be read shows nothing, not that nothing succeeds."""
    return look.read and look.health_failures >= DOWN_AFTER and look.n == look.errors
