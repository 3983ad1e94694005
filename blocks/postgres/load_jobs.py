# ruff: noqa: S608 - names are quoted by qualified()
"""The jobs of a restore, in a worker: pre-data, large objects, rows, post-data, all into a database of our own.

The invariant: a table's rows are committed only after the last byte was decrypted, the stored bytes agree with their
sha256, and count and hash with the manifest. The table is truncated in that same transaction: only so do its rows go
into the heap in the order of the stream (and FREEZE is allowed), and a restored table reads as the dumped one did.
"""

import io
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import IO, Any, cast

import psycopg

from blocks.errors import Garbled, Refused
from blocks.postgres.address import said
from blocks.postgres.compare_jobs import facts_of, measured, text_of
from blocks.postgres.contents import Table
from blocks.postgres.desk import Desk, Tool, tool_error
from blocks.postgres.dump_jobs import hash_blobs, table_pieces
from blocks.postgres.pins import listed, literal, qualified, rows, run
from blocks.stream import PIECE, Facts

BUILD_MEMORY = {"PGOPTIONS": "-c maintenance_work_mem=512MB"}
SET_TRANSACTION_TIMEOUT = b"SET transaction_timeout = 0;"
V17 = 17


def load_table(desk: Desk, *, table: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fill one table; one that is filled already, and reads back equal, is kept."""
    it, wanted = Table.of(table), facts_of(stored)
    with said(f"loading {it}"):
        if it.condition is None and _is_filled(desk.connection, it) and _reads_back(desk, it, wanted):
            return {"kept": True}
        with desk.connection.transaction():
            _emptied(desk.connection, it)
            with desk.connection.cursor() as cursor:
                with cursor.copy(_copy_in(it, desk.pinned["client_encoding"]).encode()) as copy:
                    found = desk.fetch(stored["key"], copy.write, stored["sha256"])
                _demand(it, wanted, found, cursor.rowcount)
    return {"kept": False}


def _is_filled(connection: psycopg.Connection, table: Table) -> bool:
    name = qualified(table.schema, table.name)
    return bool(rows(connection, f"select exists (select from only {name})")[0][0])


def _reads_back(desk: Desk, table: Table, wanted: Facts) -> bool:
    return measured(table_pieces(desk, table, wanted.plain_bytes)) == text_of(wanted)


def _emptied(connection: psycopg.Connection, table: Table) -> None:
    """An extension's configuration table keeps what the extension itself put there."""
    name = qualified(table.schema, table.name)
    whole = table.condition is None
    run(connection, f"truncate only {name}" if whole else f"delete from only {name} {table.condition}")


def _copy_in(table: Table, encoding: str) -> str:
    freeze = "freeze, " if table.condition is None else ""
    what = f"{qualified(table.schema, table.name)}{listed(table.columns)}"
    return f"copy {what} from stdin ({freeze}encoding {literal(encoding)})"


def _demand(table: Table, wanted: Facts, found: Facts, copied: int) -> None:
    if found == wanted and copied == wanted.rows:
        return
    raise Garbled(
        f"{table} is not what was backed up: {found.rows} rows, xxh3 {found.xxh3_128}, {copied} of them copied, "
        f"wanted {wanted.rows} rows, xxh3 {wanted.xxh3_128}; nothing of it was kept"
    )


def load_section(
    desk: Desk, *, section: str, stored: Mapping[str, Any], parallel: int, keep: list[str]
) -> dict[str, Any]:
    """Run one section of the schema archive, its tablespaces left out: the server may have none of that name.

    `keep` is what is not left to others: "owner", "privileges".
    """
    with tempfile.TemporaryFile() as archive:
        desk.fetch(stored["key"], archive.write, stored["sha256"])
        archive.flush()
        options = [f"--section={section}", "--exit-on-error", "--no-tablespaces"]
        options += [f"--no-{what}" for what in ("owner", "privileges") if what not in keep]
        if desk.orders["tools_major"] >= V17 > int(desk.orders["server_version_num"]) // 10000:
            _through_psql(desk, section, options, archive)
        else:
            _by_pg_restore(desk, section, [*options, "-j", str(parallel)], archive)
    return {}


def _by_pg_restore(desk: Desk, section: str, options: list[str], archive: IO[bytes]) -> None:
    """The archive has no name: a worker that is killed leaves nothing. Parallel pg_restore opens it by this path."""
    number = archive.fileno()
    arguments = ["pg_restore", *options, "-d", desk.address.argument, f"/proc/self/fd/{number}"]
    desk.run_tool(Tool(f"pg_restore of {section}", arguments, keep_open=[number], variables=BUILD_MEMORY))


def _through_psql(desk: Desk, section: str, options: list[str], archive: IO[bytes]) -> None:
    """As a script, without the line on transaction_timeout: pg_restore sets that since 17, older servers lack it."""
    number = archive.fileno()
    with tempfile.TemporaryFile() as script:
        restore = ["pg_restore", *options, "-f", "-", f"/proc/self/fd/{number}"]
        desk.run_tool(Tool(f"pg_restore of {section}", restore, stdout=script.fileno(), keep_open=[number]))
        with _without(script, SET_TRANSACTION_TIMEOUT) as accepted:
            psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", desk.address.argument]
            desk.run_tool(Tool(f"psql of {section}", psql, stdin=accepted, variables=BUILD_MEMORY))


@contextmanager
def _without(script: IO[bytes], unwanted: bytes) -> Generator[IO[bytes]]:
    script.seek(0)
    with tempfile.TemporaryFile() as accepted:
        accepted.writelines(line for line in script if line.strip() != unwanted)
        accepted.seek(0)
        yield accepted


def load_blobs(desk: Desk, *, key: str, sha256: str, count: int, xxh3_128: str | None) -> dict[str, Any]:
    """Bring the large objects in, all or none; those that are there already must be the same."""
    wanted = {"count": count, "xxh3_128": xxh3_128}
    found = hash_blobs(desk)
    if not found["count"]:
        _feed(desk, key, sha256)
        found = hash_blobs(desk)
    if found != wanted:
        raise Garbled(f"the large objects are not what was backed up: {found['count']} are there, wanted {count}")
    return {}


def _feed(desk: Desk, key: str, sha256: str) -> None:
    what = "pg_restore of large objects"
    options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    arguments = ["pg_restore", *options, "-d", desk.address.argument]
    with desk.running(Tool(what, arguments, stdin=subprocess.PIPE)) as (process, errors):
        if process.stdin is None:
            raise Refused(f"nothing to write {what} to: it was started without a pipe")
        try:
            with io.BufferedWriter(cast("io.RawIOBase", process.stdin), PIECE) as pipe:  # raw, as bufsize is 0
                desk.fetch(key, pipe.write, sha256)
        except BrokenPipeError:
            raise tool_error(what, process.wait(), errors) from None
        if process.wait():
            raise tool_error(what, process.returncode, errors)


def analyze(desk: Desk) -> dict[str, Any]:
    """Statistics for the planner, which no dump holds."""
    with said(f"analyzing {desk.address}"):
        run(desk.connection, "analyze")
    return {}


JOBS = {"load_table": load_table, "load_section": load_section, "load_blobs": load_blobs, "analyze": analyze}
