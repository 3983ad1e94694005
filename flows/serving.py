"""Who had the traffic when: told from the releases that are remembered and what became of them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flows.records_release import Release, Told


@dataclass(frozen=True)
class Span:
    """A time in which one release had the traffic."""

    release: Release
    begins: datetime
    ends: datetime

    @property
    def seconds(self) -> float:
        """How long."""
        return (self.ends - self.begins).total_seconds()


def spans(releases: Sequence[Told], now: datetime) -> list[Span]:
    """Oldest first. A release that was undone gave the traffic back to the one before it."""
    found: list[Span] = []
    live = [told for told in releases if told.live_at]
    for place, told in enumerate(live):
        following = live[place + 1] if place + 1 < len(live) else None
        begins, until = told.live_at or now, (following.live_at if following else now) or now
        left = min(told.ended_at or now, until) if told.state in ("undoing", "undone") else until
        found.append(Span(told.release, begins, left))
        if (before := _before(found, told.release)) and until > left:
            found.append(Span(before, left, until))
    return found


def serving(releases: Sequence[Told], now: datetime) -> Release | None:
    """The release that has the traffic; None: none has."""
    found = spans(releases, now)
    return found[-1].release if found and found[-1].ends >= now else None


def spans_of(commit: str, found: Sequence[Span]) -> list[Span]:
    """Those of one commit, oldest first."""
    return [span for span in found if span.release.commit == commit]


def _before(found: Sequence[Span], release: Release) -> Release | None:
    return next((span.release for span in reversed(found) if span.release.commit == release.previous), None)
