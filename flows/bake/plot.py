"""The evidence over time as an SVG picture, on a card of its own: readable in any theme. Pure; reference, 4.

Time runs to the right, odds against the release rise upwards on a log scale, each signal is a line. Looks that were
frozen are shaded; the dashed marks are no evidence, strong evidence, and each signal's own threshold.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from math import log

from flows.bake.looks import Signal
from flows.bake.rule import STRONG, Judgement
from flows.bake.sentence import odds
from flows.bake.signals import Reading
from flows.chart import CARD, FONT, INK

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 78, 150, 78, 52  # around the plot: axis labels, marks, title and legend
QUIET, SHADE = "#94a3b8", "#475569"
SMALL = 'font-family="sans-serif" font-size="12"'
NAMES: dict[Signal, tuple[str, str]] = {  # what people read, and the colour
    "error": ("errors", "#f87171"),
    "slow95": ("p95 latency", "#fbbf24"),
    "slow50": ("median latency", "#34d399"),
    "probe": ("probes", "#60a5fa"),
}

_LOWEST, _HIGHEST = log(0.01), log(30_000)  # what lies beyond is drawn at the edge


def evidence_image(judgement: Judgement, *, title: str) -> str:
    """The picture as a Markdown image, which both of Prefect's UIs show without a file server."""
    svg = evidence_plot(judgement, title=title)
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def evidence_plot(judgement: Judgement, *, title: str) -> str:
    """The picture as SVG text. Signals that say nothing are left out."""
    told = [reading for reading in judgement.readings if not reading.untested]
    scale = _Scale(judgement, told)
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{CARD}"/>',
        f'<text x="22" y="30" {FONT} fill="{INK}">{escape(title)}</text>',
        *_legend(told, any(judgement.frozen)),
        *_shades(judgement, scale),
        *_axes(scale),
        *_marks(told, scale),
        *(_line(reading, judgement.times, scale) for reading in told),
    ]
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(parts)}</svg>'


class _Scale:
    """Where a time and a log E lie on the picture."""

    def __init__(self, judgement: Judgement, told: Sequence[Reading]) -> None:
        reached = [each for reading in told for each in reading.path]
        ends = [log(1 / reading.alpha) for reading in told]
        self.end_s = judgement.at or 1.0
        self.low = max(min([log(0.1), *reached]), _LOWEST)
        self.high = min(max([log(2000), *reached, *(end + 0.7 for end in ends)]), _HIGHEST)

    def x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.end_s

    def y(self, log_e: float) -> float:
        inside = min(max(log_e, self.low), self.high)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (inside - self.low) / (self.high - self.low)


def _legend(told: Sequence[Reading], some_frozen: bool) -> Iterable[str]:
    x = 22.0
    for reading in told:
        name, colour = NAMES[reading.signal]
        said = f"{name} {odds(reading.log_e)}"
        yield f'<rect x="{x:.0f}" y="47" width="18" height="4" rx="2" fill="{colour}"/>'
        yield _text(x + 24, 54, said, INK)
        x += 38 + 6.1 * len(said)
    if some_frozen:
        yield f'<rect x="{x:.0f}" y="43" width="18" height="12" fill="{SHADE}" opacity="0.6"/>'
        yield _text(x + 24, 54, "frozen", INK)


def _shades(judgement: Judgement, scale: _Scale) -> Iterable[str]:
    """One a run of frozen looks: drawn one by one they would show seams."""
    starts = (0.0, *judgement.times)
    looks = zip(starts, judgement.times, judgement.frozen, strict=False)
    for frozen, run in groupby(looks, key=lambda look: look[2]):
        ends = [(start, end) for start, end, _ in run]
        x, until = scale.x(ends[0][0]), scale.x(ends[-1][1])
        if frozen:
            yield (
                f'<rect x="{x:.1f}" y="{TOP}" width="{until - x:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
                f' fill="{SHADE}" opacity="0.6"/>'
            )


def _axes(scale: _Scale) -> Iterable[str]:
    floor, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    yield f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="{QUIET}"/>'
    unit, name = (1.0, "seconds") if scale.end_s <= 180 else (60.0, "minutes")  # noqa: PLR2004 - three minutes
    step = _step(scale.end_s / unit)
    for place in range(int(scale.end_s / unit / step + 1e-9) + 1):
        x = scale.x(place * step * unit)
        yield f'<path d="M{x:.1f} {floor}v5" stroke="{QUIET}"/>'
        yield _text(x, floor + 19, f"{place * step:g}", QUIET, "middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, f"{name} since go-live", INK, "middle")
    for odd in (0.01, 0.1, 1, 10, 100, 1000, 10_000):
        if scale.low - 1e-9 <= log(odd) <= scale.high + 1e-9:
            y = scale.y(log(odd))
            yield f'<path d="M{LEFT - 5} {y:.1f}h5" stroke="{QUIET}"/>'
            yield _text(LEFT - 9, y + 4, f"{odd:g}", QUIET, "end")
    yield (
        f'<text transform="translate(22 {middle:.0f}) rotate(-90)" {SMALL} fill="{INK}" text-anchor="middle">'
        "evidence against the release, x : 1</text>"
    )


def _marks(told: Sequence[Reading], scale: _Scale) -> Iterable[str]:
    """A dashed line each; signals that share a threshold share a mark."""
    yield from _mark(0.0, "1  no evidence", QUIET, scale)
    yield from _mark(log(STRONG), f"{STRONG}  strong", INK, scale)
    thresholds: dict[int, list[str]] = {}
    for reading in told:
        thresholds.setdefault(round(1 / reading.alpha), []).append(NAMES[reading.signal][1])
    for odd, colours in thresholds.items():
        yield from _mark(log(odd), f"{odd}  rollback", colours[0], scale)


def _mark(log_e: float, name: str, colour: str, scale: _Scale) -> Iterable[str]:
    y = scale.y(log_e)
    yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{colour}" stroke-dasharray="4 4" opacity="0.7"/>'
    yield _text(WIDTH - RIGHT + 8, y + 4, name, colour)


def _line(reading: Reading, times: Sequence[float], scale: _Scale) -> str:
    points = zip((0.0, *times), (0.0, *reading.path), strict=False)
    drawn = " ".join(f"{scale.x(t):.1f},{scale.y(log_e):.1f}" for t, log_e in points)
    name, colour = NAMES[reading.signal]
    stroke = f'stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"'
    return f'<polyline points="{drawn}" fill="none" {stroke}><title>{escape(name)}</title></polyline>'


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {SMALL} fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _step(length: float) -> float:
    """The distance of ticks on an axis so long: about six of them."""
    return next((step for step in (1, 2, 5, 10, 20, 30, 60, 120) if length / step <= 8), length / 6)  # noqa: PLR2004
