"""The positions that a release sets: what runs in a slot, which slot has the traffic, that the way back is there."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from flows.ledger import Setting, still
from flows.rollback.asking import await_balancer, await_healthy

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
class Kept(Setting):
    """Whether the release that loses the traffic lives, forward and back: the traffic is given back to nothing dead."""

    slot: str
    commit: str

    def read(self, world: "World") -> JsonValue:
        """Whether its commit lives in its slot."""
        return world.platform.slots()[self.slot].commit == self.commit

    def agrees(self, found: JsonValue, want: JsonValue) -> bool:
        """Whatever it was before: it lives."""
        del want
        return found is True

    def write(self, world: "World", want: JsonValue) -> None:
        """Start it again, and wait until it and the load balancer say that it serves."""
        del want
        still()
        world.platform.start(self.slot, self.commit)
        await_healthy(world, self.slot, self.commit, still)
        await_balancer(world, self.slot, still)


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
