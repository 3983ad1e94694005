"""What one signal counts of the looks, and the evidence that it gathers. Pure; reference, 3."""

from math import log

from flows.bake.baseline import Tolerance
from flows.bake.bounds import lower, upper
from flows.bake.evidence import Evidence
from flows.bake.looks import Look, Signal
from flows.records import Record

WARM_UP_S = 60.0  # cold starts: no look that ends before tells anything of latency

_UNSEEN: dict[Signal, str] = {
    "error": "no request was counted",
    "slow95": "no answer time was counted after the first 60 s",
    "slow50": "no answer time was counted after the first 60 s",
    "probe": "none was counted",
}
_SIDE = 0.025  # on each side of an interval


class Reading(Record):
    """What one signal says: counts of the looks that were not frozen, and log E after each look."""

    tolerance: Tolerance
    alpha: float
    n: int = 0
    bad: int = 0
    path: tuple[float, ...] = ()

    @property
    def signal(self) -> Signal:
        """Which one."""
        return self.tolerance.signal

    @property
    def log_e(self) -> float:
        """Natural logarithm of the evidence."""
        return self.path[-1] if self.path else 0.0

    @property
    def crossed(self) -> bool:
        """Whether it asks for a rollback."""
        return self.log_e >= log(1 / self.alpha)

    @property
    def untested(self) -> str:
        """Why it says nothing; empty where it does."""
        return self.tolerance.why if self.tolerance.p0 is None else "" if self.n else _UNSEEN[self.signal]

    @property
    def allowed(self) -> tuple[float, float]:
        """The rates that the data allow, 2.5 % on each side, at whatever look."""
        return lower(self.bad, self.n, _SIDE), upper(self.bad, self.n, _SIDE)


class Stream:
    """One signal's counts and evidence, look by look."""

    def __init__(self, tolerance: Tolerance, alpha: float) -> None:
        self.tolerance, self.alpha = tolerance, alpha
        self.signal = tolerance.signal
        self.n = self.bad = 0
        self._evidence = None if tolerance.p0 is None else Evidence(tolerance.p0, tolerance.phi)
        self._path: list[float] = []
        self._threshold = log(1 / alpha)

    @property
    def log_e(self) -> float:
        """Natural logarithm of the evidence now."""
        return self._evidence.log_e if self._evidence else 0.0

    @property
    def crossed(self) -> bool:
        """Whether it asks for a rollback."""
        return self.log_e >= self._threshold

    def add(self, look: Look, *, frozen: bool) -> None:
        """Count a look; a frozen one only lengthens the path."""
        n, bad = _counted(look, self.tolerance)
        if self._evidence and n and not frozen:
            self.n, self.bad = self.n + n, self.bad + bad
            self._evidence.add(look.at, n, bad)
        self._path.append(self.log_e)

    def reading(self) -> Reading:
        """The same as a value."""
        return Reading(tolerance=self.tolerance, alpha=self.alpha, n=self.n, bad=self.bad, path=tuple(self._path))


def _counted(look: Look, tolerance: Tolerance) -> tuple[int, int]:
    """What of a look bears on the signal: (n, bad). Latency has a warm-up."""
    if tolerance.signal == "error":
        return look.n, look.errors
    if tolerance.signal == "probe":
        return look.probes_n, look.probes_bad
    if look.at <= WARM_UP_S or not look.hist:
        return 0, 0
    return sum(look.hist), sum(look.hist[tolerance.edge + 1 :])
