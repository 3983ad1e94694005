"""The jobs of a restore, in a worker: pre-data, large objects, rows, post-data, all into a database of our own.

The invariant: a table's rows are committed only after the last byte was decrypted, the stored bytes agree with their
sha256, and count and hash with the manifest. The table is truncated in that same transaction: only so do its rows go into
the heap in the order of the stream (and FREEZE is allowed), and a restored table reads byte for byte as the dumped one.
"""

import io
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO, Any

import psycopg

from blocks.errors import Garbled, Refused
from blocks.postgres.address import said
from blocks.postgres.compare_jobs import measured
from blocks.postgres.contents import Table
from blocks.postgres.desk import Desk, tool_error
from blocks.postgres.dump_jobs import hash_blobs, table_pieces
from blocks.postgres.pins import listed, literal, qualified, rows, run
from blocks.stream import PIECE, Facts

BUILD_MEMORY = "-c maintenance_work_mem=512MB"
SET_TRANSACTION_TIMEOUT = b"SET transaction_timeout = 0;"
V17 = 17


def load_table(
    desk: Desk, *, table: Mapping[str, Any], key: str, sha256: str, rows: int, xxh3_128: str, plain_bytes: int
) -> dict[str, Any]:
    """Fill one table; one that is filled already, and reads back equal, is kept."""
    it, wanted = Table.of(table), Facts(rows, xxh3_128, plain_bytes)
    with said(f"loading {it}"):
        if it.condition is None and _is_filled(desk.connection, it) and _reads_back(desk, it, wanted):
            return {"kept": True}
        with desk.connection.transaction():
            _emptied(desk.connection, it)
            with desk.connection.cursor() as cursor:
                with cursor.copy(_copy_in(it, desk.pinned["client_encoding"]).encode()) as copy:
                    found = desk.fetch(key, copy.write, sha256)
                _demand(it, wanted, found, cursor.rowcount)
    return {"kept": False}


def _is_filled(connection: psycopg.Connection, table: Table) -> bool:
    return bool(rows(connection, f"select exists (select from only {qualified(table.schema, table.name)})")[0][0])


def _reads_back(desk: Desk, table: Table, wanted: Facts) -> bool:
    return measured(table_pieces(desk, table, wanted.plain_bytes)) == wanted


def _emptied(connection: psycopg.Connection, table: Table) -> None:
    """An extension's configuration table keeps what the extension itself put there."""
    name = qualified(table.schema, table.name)
    run(
        connection, f"truncate only {name}" if table.condition is None else f"delete from only {name} {table.condition}"
    )


def _copy_in(table: Table, encoding: str) -> str:
    freeze = "freeze, " if table.condition is None else ""
    return f"copy {qualified(table.schema, table.name)}{listed(table.columns)} from stdin ({freeze}encoding {literal(encoding)})"


def _demand(table: Table, wanted: Facts, found: Facts, copied: int) -> None:
    if found == wanted and copied == wanted.rows:
        return
    raise Garbled(
        f"{table} is not what was backed up: {found.rows} rows, xxh3 {found.xxh3_128}, {copied} of them copied, "
        f"wanted {wanted.rows} rows, xxh3 {wanted.xxh3_128}; nothing of it was kept"
    )


def load_section(desk: Desk, *, section: str, key: str, sha256: str, parallel: int, keep: list[str]) -> dict[str, Any]:
    """Run one section of the schema archive; `keep` is what is not left to others: "owner", "privileges"."""
    with tempfile.TemporaryFile() as archive:
        desk.fetch(key, archive.write, sha256)
        archive.flush()
        options = [f"--section={section}", "--exit-on-error"]
        options += [f"--no-{what}" for what in ("owner", "privileges") if what not in keep]
        if desk.orders["tools_major"] >= V17 > int(desk.orders["server_version_num"]) // 10000:
            _through_psql(desk, section, options, archive)
        else:
            _by_pg_restore(desk, section, [*options, "-j", str(parallel)], archive)
    return {}


def _by_pg_restore(desk: Desk, section: str, options: list[str], archive: IO[bytes]) -> None:
    """The archive has no name: a worker that is killed leaves nothing. Parallel pg_restore opens it anew by this path."""
    number = archive.fileno()
    arguments = ["pg_restore", *options, "-d", desk.address.argument, f"/proc/self/fd/{number}"]
    desk.run_tool(f"pg_restore of {section}", arguments, keep_open=[number], PGOPTIONS=BUILD_MEMORY)


def _through_psql(desk: Desk, section: str, options: list[str], archive: IO[bytes]) -> None:
    """A pg_restore of 17 and newer sets transaction_timeout, which older servers lack: as a script, without that line."""
    number = archive.fileno()
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", desk.address.argument]
    with tempfile.TemporaryFile() as script:
        restore = ["pg_restore", *options, "-f", "-", f"/proc/self/fd/{number}"]
        with desk.tool(f"pg_restore of {section}", restore, keep_open=[number], stdout=subprocess.PIPE) as (
            process,
            errors,
        ):
            script.writelines(line for line in process.stdout or () if line.strip() != SET_TRANSACTION_TIMEOUT)
            if process.wait():
                raise tool_error(f"pg_restore of {section}", process.returncode, errors)
        script.seek(0)
        with desk.tool(f"psql of {section}", psql, stdin=script, PGOPTIONS=BUILD_MEMORY) as (process, errors):
            if process.wait():
                raise tool_error(f"psql of {section}", process.returncode, errors)


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
    with desk.tool(what, arguments, stdin=subprocess.PIPE) as (process, errors):
        if process.stdin is None:
            raise Refused(f"nothing to write {what} to: it was started without a pipe")
        try:
            with io.BufferedWriter(process.stdin, PIECE) as pipe:  # pyright: ignore[reportArgumentType] - a FileIO, as bufsize is 0
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
