"""Small charts as Markdown images (SVG data URIs), which both of Prefect's UIs show without a file server. Pure."""

import base64
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, HEAD, FOOT, SIDE = 640, 180, 40, 14, 14
CARD, NOW, BEFORE, INK = "#1e293b", "#60a5fa", "#64748b", "#e2e8f0"  # on its own card: readable in any theme
FONT = 'font-family="sans-serif" font-size="15"'


def bars(values: Sequence[tuple[str, float]], *, title: str) -> str:
    """One bar a value (its label shows under the mouse), the last one in another colour, under a title."""
    top = max((value for _, value in values), default=0.0) or 1.0
    step = (WIDTH - 2 * SIDE) / max(len(values), 1)
    drawn = "".join(_bar(i, label, value / top, step, i == len(values) - 1) for i, (label, value) in enumerate(values))
    card = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{CARD}"/>'
    head = f'<text x="{SIDE}" y="26" {FONT} fill="{INK}">{escape(title)}</text>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">{card}{head}{drawn}</svg>'
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _bar(position: int, label: str, share: float, step: float, is_last: bool) -> str:
    height = max(share * (HEIGHT - HEAD - FOOT), 1)
    width = min(max(step - 6, 2), 60)
    return (
        f'<rect x="{SIDE + position * step:.1f}" y="{HEIGHT - FOOT - height:.1f}" width="{width:.1f}"'
        f' height="{height:.1f}" fill="{NOW if is_last else BEFORE}"><title>{escape(label)}</title></rect>'
    )
