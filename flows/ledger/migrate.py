"""The ledger's tables: numbered files, applied in one transaction, recorded, never changed once released.

A ledger that a newer shipkeeper made, or another stage's, is never written to: that is asked under the lock, first.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

from blocks.errors import Refused
from blocks.postgres.address import Address, said

FILES = sorted((Path(__file__).parent / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
LATEST = len(FILES)
RECORD = """create schema if not exists ledger;
    create table if not exists ledger.migration (version integer primary key, name text not null,
        applied_at timestamptz not null default clock_timestamp())"""
MADE = "select to_regclass('ledger.stage') is not null"
SAYS = "select (select coalesce(max(version), 0) from ledger.migration), (select name from ledger.stage)"
LOCK = "select pg_advisory_xact_lock(hashtextextended('shipkeeper migrate', 0))"


def migrate(address: Address, owner: str | None = None) -> str:
    """Bring the ledger to this code's version, as that of the stage `owner`; says what it did.

    Refused when a newer shipkeeper made it, or when it is another stage's.
    """
    with (
        closing(address.connect(application_name="shipkeeper migrate")) as connection,
        said(f"preparing the ledger {address}"),
        connection.transaction(),
    ):
        connection.execute(LOCK)
        refuse_foreign(connection, address, owner)
        connection.execute(RECORD)
        applied = [file.stem for file in FILES if _apply(connection, address, file)]
        if owner:
            connection.execute("insert into ledger.stage (name) values (%s) on conflict do nothing", [owner])
    if not applied:
        return f"the ledger {address} is at version {LATEST}: nothing to do"
    return f"the ledger {address} is now at version {LATEST}: applied {', '.join(applied)}"


def version(address: Address) -> int:
    """The version that the ledger is at; 0 when it was never migrated."""
    with (
        closing(address.connect(application_name="shipkeeper migrate")) as connection,
        said(f"asking the ledger {address} for its version"),
    ):
        row = connection.execute("select to_regclass('ledger.migration') is not null").fetchone()
        return _version(connection) if row and row[0] else 0


def refuse_foreign(connection: Connection[Any], address: Address, owner: str | None) -> None:
    """Refused when the ledger is newer than this code, or another stage's; one that was never made is neither.

    Reconcile settles all that is open in a ledger in the world of one stage: two stages never share one.
    """
    cursor = connection.cursor(row_factory=tuple_row)
    if cursor.execute(MADE).fetchone() != (True,):
        return
    found, stage = cursor.execute(SAYS).fetchone() or (0, None)
    refuse_newer(address, found)
    if owner and stage and stage != owner:
        raise Refused(f"the ledger {address} is that of stage {stage}: give {owner} a database of its own")


def refuse_newer(address: Address, found: int) -> None:
    """Code that does not know a ledger's rules must not write to it."""
    if found > LATEST:
        raise Refused(
            f"the ledger {address} is at version {found}, this shipkeeper knows up to {LATEST}: run the newer one"
        )


def _apply(connection: Connection, address: Address, file: Path) -> bool:
    number = int(file.stem[:4])
    with said(f"applying {file.name} to the ledger {address}"):
        if number <= _version(connection):
            return False
        connection.execute(file.read_bytes())
        connection.execute("insert into ledger.migration (version, name) values (%s, %s)", [number, file.stem])
        return True


def _version(connection: Connection) -> int:
    row = connection.execute("select coalesce(max(version), 0) from ledger.migration").fetchone()
    return int(row[0]) if row else 0
