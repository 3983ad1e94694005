"""Small charts as Markdown images (SVG data URIs), which both of Prefect's UIs show without a file server. Pure."""

import base64
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, HEAD, FOOT = 420, 120, 20, 6
NOW, BEFORE, INK = "#2563eb", "#94a3b8", "#475569"


def bars(values: Sequence[tuple[str, float]], *, unit: str) -> str:
    """One bar a value, the last one in another colour; the highest value is written above."""
    top = max((value for _, value in values), default=0.0) or 1.0
    step = WIDTH / max(len(values), 1)
    drawn = "".join(_bar(i, label, value / top, step, i == len(values) - 1) for i, (label, value) in enumerate(values))
    font = 'font-family="sans-serif" font-size="11"'
    head = f'<text x="2" y="13" {font} fill="{INK}">{escape(unit)}; highest {top:,.1f}</text>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">{head}{drawn}</svg>'
    return f"![{unit}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _bar(position: int, label: str, share: float, step: float, is_last: bool) -> str:
    height = max(share * (HEIGHT - HEAD - FOOT), 1)
    width = min(max(step - 4, 2), 60)
    return (
        f'<rect x="{position * step + 2:.1f}" y="{HEIGHT - FOOT - height:.1f}" width="{width:.1f}"'
        f' height="{height:.1f}" fill="{NOW if is_last else BEFORE}"><title>{escape(label)}</title></rect>'
    )
