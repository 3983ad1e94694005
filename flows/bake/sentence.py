"""A judgement in words: what became of the release, on which counts, and what they still allow. Pure; reference, 4.

One form for the log, the page, the alert and the tests. What could not be tested stands there with its reason.
"""

from math import exp, log

from flows.bake.looks import Signal
from flows.bake.rule import STRONG, Judgement
from flows.bake.signals import Reading
from flows.words import duration

_BAD: dict[Signal, str] = {
    "error": "errors",
    "slow95": "slower than the stable version's p95",
    "slow50": "slower than the stable version's median",
    "probe": "failed probes",
}
_GROUPS: dict[str, tuple[Signal, ...]] = {"Errors": ("error",), "Latency": ("slow95", "slow50"), "Probes": ("probe",)}

_PROBES_PER_S = 0.4  # of dependencies; fewer miss incidents that hit both versions
_MANY = 700.0  # e to this is the last that a double holds


def sentence(judgement: Judgement, *, stays: bool = False) -> str:
    """`ROLLED BACK 40 s after go-live: errors 11 of 203 (5.4 %; the data allow 1.8-11.8 %). Stable version: ...`.

    Of a release that `stays` whatever is found (a restored one, one whose version nobody knows): `BAD 40 s after ...`.
    """
    lead, head = _lead(judgement), _head(judgement, stays=stays)
    counts = _counts(lead)
    parts = [
        head,
        counts if head.endswith(":") else f"{counts[0].upper()}{counts[1:]}",
        *_against_what(lead),
        *(
            _other(name, _of(judgement, signals))
            for name, signals in _GROUPS.items()
            if _is_told(judgement, lead, name)
        ),
        _dependencies(judgement),
        _unread(judgement),
        _untested(judgement),
        "" if judgement.action == "rollback" else f"What we still cannot exclude: {not_excluded(judgement)}.",
    ]
    return " ".join(part for part in parts if part)


def not_excluded(judgement: Judgement) -> str:
    """`error rate up to 3.3 %`: the always-valid bound, 95 %."""
    return f"error rate up to {percent(judgement.may_still_be)}" if judgement.errors.n else "any error rate"


def odds(log_e: float) -> str:
    """`1305 : 1` of a log E of 7.17."""
    value = exp(min(log_e, _MANY))
    if value > 1e6:  # noqa: PLR2004 - more says nothing more
        return "more than 1 000 000 : 1"
    if value < 0.05:  # noqa: PLR2004 - what would be shown as 0.0
        return "below 0.1 : 1"
    return f"{amount(round(value))} : 1" if value >= 9.95 else f"{value:.1f} : 1"  # noqa: PLR2004 - two digits


def percent(share: float) -> str:
    """`5.4 %`, `0.07 %`, `0.003 %`."""
    value = 100 * share
    if value == 0 or value == round(value):
        return f"{value:.0f} %"
    return f"{_digits(value)} %"


def amount(number: int) -> str:
    """`1305`, `20 000`: in groups from five digits on."""
    return f"{number:,}".replace(",", " ") if number >= 10_000 else str(number)  # noqa: PLR2004


def _head(judgement: Judgement, *, stays: bool) -> str:
    after, gone = f"{_time(judgement.at)} after go-live", "BAD" if stays else "ROLLED BACK"
    match judgement.state:
        case "rollback":
            return f"{gone} {after}:"
        case "hard_down":
            return f"{gone} {after}, hard down: {judgement.reason}."
        case "healthy":
            return f"KEPT {after}, healthy:"
        case "watching":
            return f"WATCHING, {after}: {judgement.reason}."
        case "inconclusive":
            return _inconclusive(judgement, after, stays=stays)


def _inconclusive(judgement: Judgement, after: str, *, stays: bool) -> str:
    if stays:
        return f"UNPROVEN {after}, inconclusive: {judgement.reason}."
    done = {"keep": "KEPT", "hold": "HELD", "rollback": "ROLLED BACK", "wait": "WATCHING"}[judgement.action]
    by = "first release" if judgement.baseline.first else f"policy {judgement.rules.policy}"
    asked = " A person decides." if judgement.action == "hold" else ""
    return f"{done} {after}, inconclusive ({by}): {judgement.reason}.{asked}"


def _lead(judgement: Judgement) -> Reading:
    """The signal that the sentence is about: of a rollback the one furthest past its threshold, else the errors."""
    crossed = [reading for reading in judgement.readings if reading.crossed]
    return max(crossed, key=lambda reading: reading.log_e + log(reading.alpha), default=judgement.errors)


def _counts(lead: Reading) -> str:
    if not lead.n:
        return f"{_BAD[lead.signal]} 0 of 0."
    low, high = lead.allowed
    share = f"{percent(lead.bad / lead.n)}; the data allow {percent(low).removesuffix(' %')}-{percent(high)}"
    return f"{_BAD[lead.signal]} {amount(lead.bad)} of {amount(lead.n)} ({share})."


def _against_what(lead: Reading) -> list[str]:
    tolerated, why = lead.tolerance, lead.tolerance.why
    known = f"Stable version: {amount(tolerated.bad)} of {amount(tolerated.n)} (at most {percent(tolerated.upper)})."
    return [
        "" if why else known,
        f"Tolerated {percent(tolerated.p0 or 0)}{f', as {why}' if why else ''}.",
        f"Evidence {odds(lead.log_e)} (rollback at {amount(round(1 / lead.alpha))} : 1).",
    ]


def _of(judgement: Judgement, signals: tuple[Signal, ...]) -> list[Reading]:
    return [reading for reading in judgement.readings if reading.signal in signals and not reading.untested]


def _is_told(judgement: Judgement, lead: Reading, name: str) -> bool:
    return lead.signal not in _GROUPS[name] and bool(_of(judgement, _GROUPS[name]))


def _other(name: str, readings: list[Reading]) -> str:
    worst = max(readings, key=lambda reading: reading.log_e)
    counts = f"{amount(worst.bad)} of {amount(worst.n)} failed, " if worst.signal == "probe" else ""
    return f"{name}: {counts}{_strength(worst)} ({odds(worst.log_e)})."


def _strength(reading: Reading) -> str:
    if reading.log_e <= 0:
        return "no evidence"
    return "strong evidence" if reading.log_e > log(STRONG) else "weak evidence"


def _dependencies(judgement: Judgement) -> str:
    made, bad, frozen = judgement.dependency_n, judgement.dependency_bad, sum(judgement.frozen)
    looks = f"{frozen} {'look' if frozen == 1 else 'looks'} frozen"
    if not made:
        return f"Dependencies not probed, {looks}."
    found = f"failed {amount(bad)} of {amount(made)} probes" if bad else "healthy"
    few = " (too few probes to see what hits both versions)" if made < _PROBES_PER_S * judgement.at else ""
    return f"Dependencies {found}{few}, {looks}{f' ({_time(judgement.frozen_s)})' if frozen else ''}."


def _unread(judgement: Judgement) -> str:
    of = f"{judgement.unread} of {len(judgement.times)}"
    return f"The source of requests could not be read in {of} looks." if judgement.unread else ""


def _untested(judgement: Judgement) -> str:
    """A group of signals none of which says anything, with the reason."""
    missing = [
        f"{name.lower()} ({next(reading.untested for reading in judgement.readings if reading.signal in signals)})"
        for name, signals in _GROUPS.items()
        if not _of(judgement, signals)
    ]
    return f"Not tested: {', '.join(missing)}." if missing else ""


def _digits(value: float) -> str:
    if value >= 1:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"  # noqa: PLR2004 - the first digit that is not 0


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else duration(seconds)  # noqa: PLR2004 - a minute
