"""The kinds of values that a stage's TOML holds: durations such as "30s", percentages, words, sections. Pure."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def _duration(value: object) -> timedelta:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError('a duration such as "30s", "5m", "48h" or "7d"')
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def said(span: timedelta) -> str:
    """A duration as the TOML writes it, in the largest unit that divides it."""
    seconds = round(span.total_seconds())
    number, unit = next((seconds // each, u) for u, each in _SECONDS.items() if seconds % each == 0)
    return f"{number}{unit}"


Span = Annotated[timedelta, BeforeValidator(_duration)]  # may be zero: a rule that is off
Duration = Annotated[Span, Field(gt=timedelta(0))]
Percent = Annotated[int, Field(ge=0, le=100)]
Policy = Annotated[str, Field(pattern=r"^(every|every [1-9]\d{0,3}(st|nd|rd|th)|weekly|never)$")]
Word = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of the TOML, frozen; a key that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
