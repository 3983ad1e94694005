"""What counts of bad events still allow as the true rate. Standard library only; formulas: reference, 3.1 and 3.5.

Two kinds. `clopper_pearson` is for one count that is looked at once (the baseline). `upper` and `lower` hold at every
look at once, however often one looks: Ville's inequality on a mixture of likelihood ratios.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import exp, inf, lgamma, log, log1p

UPWARD = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # how many times worse (as odds) a bad release may be
DOWNWARD = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)

_TINY = 1e-300
_TERMS = 100_000  # of the continued fraction, which needs about the root of the larger parameter


@lru_cache(maxsize=64)
def clopper_pearson(bad: float, n: float, alpha: float) -> float:
    """The upper bound at `alpha` of the rate behind `bad` of `n`, which need not be whole numbers."""
    if bad >= n:
        return 1.0
    return _root(lambda u: incomplete_beta(bad + 1, n - bad, u) >= 1 - alpha, bad / n)


def upper(bad: int, n: int, level: float) -> float:
    """The largest rate that the counts do not reject at 1 : 1/level, at whatever look."""
    if not n or against(bad, n, 1.0) < log(1 / level):
        return 1.0
    return _root(lambda p: against(bad, n, p) >= log(1 / level), bad / n)


def lower(bad: int, n: int, level: float) -> float:
    """The smallest rate that the counts do not reject: the mirror image of `upper`."""
    if not bad or _mixture(bad, n, 0.0, UPWARD) < log(1 / level):
        return 0.0
    return 1 - _root(lambda p: _mixture(bad, n, 1 - p, UPWARD) >= log(1 / level), 1 - bad / n)


def against(bad: int, n: int, p: float) -> float:
    """The evidence log f(p) that the rate lies below `p`; it means that only where p > bad / n."""
    return _mixture(bad, n, p, DOWNWARD)


def log_sum_exp(terms: Sequence[float]) -> float:
    """The logarithm of the sum of exp(term), without overflow."""
    top = max(terms)
    return top if top == -inf else top + log(sum([exp(term - top) for term in terms]))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularised, for positive real a and b: Lentz's continued fraction on its quick side."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _mixture(bad: int, n: int, p: float, odds: Sequence[float]) -> float:
    """The log of the mean likelihood ratio of rates whose odds are so many times those of p, against p.

    With z = 1 - p + x p the rate is q = x p / z, so q / p = x / z and (1 - q) / (1 - p) = 1 / z: no division by 1 - p.
    """
    terms = [bad * log(x) - n * log1p((x - 1) * p) for x in odds]
    return log_sum_exp(terms) - log(len(odds))


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        before = value
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _not_zero(1 + step * d)
            c = _not_zero(1 + step / c)
            value *= c * d
        if abs(value - before) <= 1e-15 * abs(value):
            return value
    raise ArithmeticError(f"the incomplete beta function of {a:g}, {b:g} at {x:g} did not settle")


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _root(holds: Callable[[float], bool], start: float) -> float:
    """Where `holds` turns true, between start (where it is not) and 1 (where it is): doubling, then bisection."""
    low, step = start, 1e-4
    while low + step < 1 and not holds(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, 1.0)
    while (middle := (low + high) / 2) not in {low, high} and high - low > 1e-14 * high:
        low, high = (low, middle) if holds(middle) else (middle, high)
    return (low + high) / 2
