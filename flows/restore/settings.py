"""The positions that a restore and a swap set in the world: a database that exists, its mark, two names, a door."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import JsonValue

from blocks.errors import Refused
from blocks.postgres import databases
from blocks.postgres.address import Address
from blocks.postgres.load import create_database, drop_database
from flows.ledger import Back, Setting, application_name, still

if TYPE_CHECKING:
    from flows.world import World

LEASE_SHARE = 0.2  # of the lease: a command begun at 80 % of it is over at its end


@dataclass(frozen=True)
class OnServer(Setting):
    """A setting of the server that a PostgresServer block names; empty: the stage's own."""

    server: str

    def address(self, world: "World") -> Address:
        """How the server is entered."""
        return (world.server(self.server) if self.server else world.database).address()

    def servers(self, world: "World") -> list[Address]:
        """Where a taker ends what an older token left."""
        return [self.address(world).at(databases.MAINTENANCE)]


@dataclass(frozen=True)
class NewDatabase(OnServer):
    """A database of ours exists, with the backup's encoding and collation, closed to everybody but its owner."""

    database: str
    facts: dict[str, Any]

    def read(self, world: "World") -> JsonValue:
        """Whether it is there."""
        return databases.is_open(self.address(world), self.database) is not None

    def write(self, world: "World", want: JsonValue) -> None:
        """Create it; or drop it with all its clients, if it is what was made here and not another of the same name."""
        still()
        address = self.address(world)
        if want:
            create_database(address, self.database, self.facts, application_name=application_name())
            return
        if not databases.is_unfinished(address, self.database):
            raise Refused(f"{self.database} is not what this restore made: it stays; look into it, and rename it")
        drop_database(address, self.database, application_name=application_name())


@dataclass(frozen=True)
class Mark(OnServer):
    """The comment that says a restored database is whole, and its door, opened with it."""

    back: ClassVar[Back] = "never"
    database: str

    def read(self, world: "World") -> JsonValue:
        """The comment, or None."""
        return databases.mark(self.address(world), self.database)

    def write(self, world: "World", want: JsonValue) -> None:
        """Open it and mark it."""
        still()
        databases.set_mark(self.address(world), self.database, str(want), application_name=application_name())


@dataclass(frozen=True)
class Live(OnServer):
    """Which database bears the live name: "before" the swap or "swapped"."""

    back: ClassVar[Back] = "never"
    live: str
    new: str
    old: str

    def read(self, world: "World") -> JsonValue:
        """Told from the three names; anything else is neither."""
        there = set(databases.facts(self.address(world)).databases)
        found = (self.live in there, self.new in there, self.old in there)
        return {(True, True, False): "before", (True, False, True): "swapped"}.get(found, f"neither: {found}")

    def write(self, world: "World", want: JsonValue) -> None:
        """Both renames in one transaction."""
        still()
        databases.swap(
            self.address(world), live=self.live, new=self.new, old=self.old,
            limit_s=world.stage.ledger.lease.total_seconds() * LEASE_SHARE, application_name=application_name(),
        )  # fmt: skip


@dataclass(frozen=True)
class Open(OnServer):
    """Whether a database lets clients in."""

    database: str

    def read(self, world: "World") -> JsonValue:
        """True, False, or None when there is no such database."""
        return databases.is_open(self.address(world), self.database)

    def write(self, world: "World", want: JsonValue) -> None:
        """Open or close it."""
        still()
        databases.set_open(self.address(world), self.database, bool(want), application_name=application_name())
