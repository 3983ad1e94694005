"""A database of about so many GB, as the benches fill it: pgbench's tables and those of a small service."""

import os
import subprocess
from pathlib import Path

from blocks.postgres.address import Address
from blocks.postgres.tools import server_tools

GB = float(os.environ.get("BENCH_GB", "1"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
TOOLS = server_tools(17)


def fill(address: Address, gb: float) -> int:
    """Fill an empty database and vacuum it, its pages in memory; its size in bytes."""
    tool(address, "pgbench", "-i", "-q", "-s", str(max(round(30 * gb), 1)), address.database)
    script = Path(__file__).with_name("bench.sql")
    tool(address, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"rows={int(240_000 * gb)}", "-f", str(script))
    with address.connect() as connection:
        connection.execute("vacuum analyze")
        row = connection.execute("select pg_database_size(current_database())").fetchone()
    size = int(row[0]) if row else 0
    print(f"\ndatabase of {size / 1e6:.0f} MB")  # noqa: T201
    return size


def tool(address: Address, name: str, *arguments: str) -> None:
    """Run one of Postgres' tools on the database."""
    subprocess.run([TOOLS.path(name), *arguments], env=environment(address), check=True, stderr=subprocess.DEVNULL)


def environment(address: Address) -> dict[str, str]:
    """What its tools read."""
    return {**os.environ, **address.environ()}
