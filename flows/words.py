"""How amounts are said to people: sizes, durations, ages. Pure, one form everywhere."""

from datetime import datetime, timedelta

UNITS = ("B", "kB", "MB", "GB", "TB")


def size(size_bytes: float) -> str:
    """`119.1 MB`: decimal units, as stores and providers bill them."""
    value, unit = float(size_bytes), 0
    while value >= 1000 and unit < len(UNITS) - 1:  # noqa: PLR2004 - decimal units
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {UNITS[unit]}"


def duration(length: timedelta | float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:  # noqa: PLR2004 - two days
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def moment(at: datetime) -> str:
    """`2026-11-24 02:00:05 UTC`."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def count(number: int, noun: str) -> str:
    """`1 table`, `4,130,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: list[str] | tuple[str, ...], most: int = 5) -> str:
    """`a, b, c and 4 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
