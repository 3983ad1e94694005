"""E prior: the evidence that bad events are more frequent than tolerated, kept look by look. Pure; reference, 3.2.

It is a bet that starts at 1 and is fair or losing while the true rate is at most p0: whoever looks as often as they
like sees it reach 1 / alpha with a probability of at most alpha (Ville). Each look may multiply it by at most 10, so
that no single look rolls anything back. It is the sum over stored looks: added in their order again, it is the same to
the last bit.

The bets are pairs of a start time s and a factor psi, each counting the looks that end after s. What a pair has won is
the difference of two running sums of its psi (now, and at s), so seven sums hold all 112 pairs.
"""

from math import log, log1p

from flows.bake.bounds import UPWARD, log_sum_exp

STARTS = (0.0, 60.0, *(180.0 + 120.0 * place for place in range(14)))  # seconds: 0, 60, 180, 300, ... 1740
CAP = log(10)  # the most that one look adds

_WEIGHTS = (0.5, *(0.5 / (len(STARTS) - 1) for _ in STARTS[1:]))


class Evidence:
    """The running evidence of one signal against the tolerated rate `p0`; `log_e` is its natural logarithm."""

    def __init__(self, p0: float, phi: float = 1.0) -> None:
        if not (0 < p0 < 1 <= phi):
            raise ValueError(f"p0 {p0:g} must lie between 0 and 1, phi {phi:g} be at least 1")
        worse = [psi * p0 / (1 - p0 + psi * p0) for psi in UPWARD]
        self._bad = [log(p / p0) / phi for p in worse]
        self._good = [(log1p(-p) - log1p(-p0)) / phi for p in worse]
        self._sums = [0.0] * len(UPWARD)
        self._started = [-float("inf")] * len(UPWARD)  # log of the sum over begun starts of w exp(-sum at the start)
        self._waiting = list(zip(STARTS, _WEIGHTS, strict=True))
        self.raw = 0.0
        self.log_e = 0.0

    def add(self, t: float, n: int, bad: int) -> float:
        """Count a look that ends `t` seconds after go-live, in their order; returns log E."""
        if not n:
            return self.log_e
        while self._waiting and self._waiting[0][0] < t:
            self._begin(self._waiting.pop(0)[1])
        good = n - bad
        sums = self._sums = [s + bad * b + good * g for s, b, g in zip(self._sums, self._bad, self._good, strict=True)]
        before, self.raw = self.raw, self._mixed(sums)
        self.log_e += min(self.raw - before, CAP)
        return self.log_e

    def _begin(self, weight: float) -> None:
        self._started = [log_sum_exp((old, log(weight) - s)) for old, s in zip(self._started, self._sums, strict=True)]

    def _mixed(self, sums: list[float]) -> float:
        terms = [s + w for s, w in zip(sums, self._started, strict=True)]
        won = log_sum_exp(terms) - log(len(UPWARD))
        waiting = sum([weight for _, weight in self._waiting])  # their pairs still stand at 1
        return log_sum_exp((won, log(waiting))) if waiting else won
