"""The two positions that a release sets: what runs in a slot, and which slot the traffic goes to."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from flows.ledger import Setting, still

if TYPE_CHECKING:
    from flows.world import World

LOOK_S = 0.05


@dataclass(frozen=True)
class Running(Setting):
    """Which commit runs in a slot of the platform; None: nothing does."""

    slot: str

    def read(self, world: "World") -> JsonValue:
        """The commit, or None where nothing lives."""
        found = world.platform.slots()[self.slot]
        return found.commit if found.alive else None

    def write(self, world: "World", want: JsonValue) -> None:
        """Stop what runs there, once no request is in flight, and start what is wanted, built from its commit."""
        if world.platform.slots()[self.slot].alive:
            self._drained(world)
            still()
            world.platform.stop(self.slot)
        if want is None:
            return
        world.platform.build(str(want))
        still()
        world.platform.start(self.slot, str(want))

    def _drained(self, world: "World") -> None:
        """Past the drain limit it is stopped all the same: the platform's grace is what is left."""
        deadline = time.monotonic() + world.stage.release.drain_limit.total_seconds()
        while world.traffic.in_flight(self.slot) and time.monotonic() < deadline:
            still()
            time.sleep(LOOK_S)  # HAProxy tells nobody when a server is drained


@dataclass(frozen=True)
class Traffic(Setting):
    """Which share of new requests each slot gets; one without a share is drained: it finishes what it has."""

    def read(self, world: "World") -> JsonValue:
        """Shares by slot."""
        return dict(sorted(world.traffic.shares().items()))

    def write(self, world: "World", want: JsonValue) -> None:
        """All in one command."""
        still()
        world.traffic.shift({str(name): int(str(share)) for name, share in dict(want).items()})  # pyright: ignore[reportArgumentType, reportCallIssue] - a JSON object
