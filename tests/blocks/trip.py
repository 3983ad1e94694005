"""A dump into a folder, and the way back into a new database: what the tests of both go through."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blocks.postgres.address import Address
from blocks.postgres.contents import Contents
from blocks.postgres.dump import dump
from blocks.postgres.load import Compared, Loaded, create_database, crew_for, drop_database, load, read_back
from blocks.postgres.snapshot import Held, hold
from blocks.postgres.tools import Tools, tools_for
from blocks.storage.objects import DirectoryPlace, Place
from blocks.stream import new_identity, recipient_of

IDENTITY = new_identity()
RECIPIENTS = [recipient_of(IDENTITY)]
PREFIX = "backup/"


def run(address: Address, *statements: str) -> None:
    with address.open() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def one(address: Address, query: str) -> object:
    with address.open() as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def client(address: Address) -> Tools:
    with address.open() as connection:
        return tools_for(connection.info.server_version // 10000)


def folder(tmp_path: Path) -> DirectoryPlace:
    return DirectoryPlace(folder=str(tmp_path / "store"))


def store(held: Held, place: Place, *, tools: Tools | None = None) -> Contents:
    """The contents, as they come back from a manifest's JSON."""
    dumped = dump(held, place, PREFIX, RECIPIENTS, tools=tools or client(held.address))
    return Contents.of(dumped.contents.to_json())


def taken(address: Address, place: Place, *, exclude_data: Sequence[str] = (), **more: Sequence[str]) -> Contents:
    with hold(address, exclude_data=exclude_data, lock_wait_s=10, **more) as held:  # pyright: ignore[reportArgumentType]
        return store(held, place)


@contextmanager
def new_database(server: Address, contents: Contents) -> Generator[Address]:
    """An empty database on server's cluster for these contents; gone afterwards."""
    name = f"{server.database}_new"
    create_database(server, name, contents.database)
    try:
        yield server.at(name)
    finally:
        drop_database(server, name)


@dataclass(frozen=True)
class Back:
    loaded: Loaded
    compared: Compared

    @property
    def differences(self) -> list[str]:
        return [f"{each.what}: wanted {each.wanted}, found {each.found}" for each in self.compared.differences]


def bring_back(address: Address, contents: Contents, place: Place, *, tools: Tools | None = None) -> Back:
    used = tools or client(address)
    with crew_for(address, contents, place, PREFIX, [IDENTITY], tools=used) as crew:
        loaded = load(address, contents, crew)
        return Back(loaded, read_back(contents, crew, amcheck=True))
