"""Decides whose process is dead by its heartbeats: Prefect's events of each running run, counted against our own.

No clock is asked. A run is silent for as many of our own heartbeats as came since its last one; where ours do not come
either (a server that is away, events that are lost), nobody's silence says anything. Who was never heard is not judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

SILENT = 5  # of our own heartbeats, 30 s apart


@dataclass(frozen=True)
class Last:
    """A run's newest heartbeat, and how many of our own had come when it was first seen."""

    beat: UUID
    heard_at: int


@dataclass(frozen=True)
class Heard:
    """What was heard so far: our own newest heartbeat, how many of ours came, the last one of each running run."""

    own: UUID | None = None
    count: int = 0
    runs: Mapping[UUID, Last] = field(default_factory=dict[UUID, Last])

    def and_now(self, own: UUID, newest: Mapping[UUID, UUID]) -> "Heard":
        """After another look: the newest heartbeat of each run that runs now, and of our own."""
        mine = newest.get(own, self.own)
        count = self.count + (mine != self.own)
        others = {run: Last(beat, count) for run, beat in newest.items() if run != own}
        same = {run: last for run, last in self.runs.items() if run in others and others[run].beat == last.beat}
        return Heard(mine, count, {**others, **same})

    @property
    def silent(self) -> list[UUID]:
        """The runs whose process is dead."""
        return [run for run, last in self.runs.items() if self.count - last.heard_at >= SILENT]
