"""A ledger for the tests: a database of its own a module, emptied for every test."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from flows.ledger.migrate import migrate
from tests.parts.postgres import drop_database, make_database
from tests.parts.toys import ToyWorld


def ledger_database(cluster: Cluster) -> Generator[Address]:
    """A database with a ledger and the table toy; dropped afterwards."""
    address = make_database(cluster)
    migrate(address)
    with closing(address.connect()) as connection:
        connection.execute("create table public.toy (name text primary key, value text)")
    yield address
    drop_database(address)


def make_world(folder: Path, address: Address) -> ToyWorld:
    """An empty world, its ledger emptied too."""
    folder.mkdir(parents=True, exist_ok=True)
    with closing(address.connect()) as connection:
        connection.execute(
            "truncate public.toy, ledger.operation, ledger.hold, ledger.step, ledger.event, ledger.tick,"
            " ledger.backup, ledger.proof, ledger.check"
        )
    return ToyWorld(folder, address)
