"""The jobs of a dump, in a worker: each reads in the parent's snapshot and stores one object.

A big table goes through psql, which reads in another process; a small one through the open connection (a thousand of
them cost a second, not twelve). Columns are always written out, settings pinned and read back in each session.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
import xxhash

from blocks.postgres.address import said
from blocks.postgres.contents import Table
from blocks.postgres.desk import SMALL_BYTES, Desk, Locked, coalesced
from blocks.postgres.pins import QUOTED_LISTS, ident, listed, literal, proof, qualified, rows, statements
from blocks.stream import PIECE

LARGE_OBJECTS_AT_ONCE = 16


def dump_table(desk: Desk, *, table: Mapping[str, Any], size_bytes: int, key: str) -> dict[str, Any]:
    """Store one table's rows; {"locked": True} where only the snapshot's holder can still read it."""
    try:
        return desk.store(key, table_pieces(desk, Table.of(table), size_bytes), estimate_bytes=size_bytes)
    except Locked:
        return {"locked": True}


def table_pieces(desk: Desk, table: Table, size_bytes: int) -> Iterator[bytes]:
    """The stream of a table: the text of its COPY, under the pins."""
    copy = copy_out(table, desk.pinned["client_encoding"])
    if size_bytes < SMALL_BYTES:
        return _by_connection(desk, copy, f"reading {table}")
    return desk.tool_pieces(f"psql reading {table}", psql_reading(desk, copy))


def copy_out(table: Table, encoding: str) -> str:
    """The COPY of a table's own rows: not those of its children, never `*`, as that would take generated columns."""
    name = qualified(table.schema, table.name)
    what = f"{name}{listed(table.columns)}"
    if table.condition:
        what = f"(select {', '.join(map(ident, table.columns))} from only {name} {table.condition})"  # noqa: S608 - quoted
    return f"copy {what} to stdout (encoding {literal(encoding)})"


def psql_reading(desk: Desk, copy: str) -> list[str]:
    """Psql's arguments: pins, proof of the pins, the snapshot, the COPY."""
    version = int(desk.orders["server_version_num"])
    before = [*statements(desk.pinned, version), r"\o /dev/null", proof(desk.pinned), r"\o", *desk.entering_snapshot()]
    commands = [argument for statement in (*before, copy) for argument in ("-c", statement)]
    quiet = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
    return ["psql", *quiet, "-d", desk.address.argument, *commands]


def _by_connection(desk: Desk, copy: str, doing: str) -> Iterator[bytes]:
    with desk.reading(doing) as connection:
        yield from copied(connection, copy)


def copied(connection: psycopg.Connection, copy: str) -> Iterator[bytes]:
    """What a COPY gives over an open connection."""
    with connection.cursor() as cursor, cursor.copy(copy.encode()) as stream:
        yield from coalesced(iter(stream))


def dump_schema(desk: Desk, *, key: str, exclude_schemas: Sequence[str], lock_wait_s: float) -> dict[str, Any]:
    """Store the schema: not `-s`, which leaves out the refresh of matviews; never `-n`, which drops extensions."""
    return desk.store(
        key,
        desk.tool_pieces(
            "pg_dump of the schema",
            [
                *_pg_dump(desk, lock_wait_s),
                "--section=pre-data",
                "--section=post-data",
                "-B",  # up to 16, pre-data would make large objects, empty ones
                *(argument for name in exclude_schemas for argument in ("-N", ident(name))),
            ],
        ),
    )


def dump_blobs(desk: Desk, *, key: str, lock_wait_s: float) -> dict[str, Any]:
    """Store the large objects and nothing else: `*` alone would leave out only the tables of the search path."""
    return desk.store(
        key, desk.tool_pieces("pg_dump of large objects", [*_pg_dump(desk, lock_wait_s), "-a", "-b", "-T", "*.*"])
    )


def _pg_dump(desk: Desk, lock_wait_s: float) -> list[str]:
    return [
        "pg_dump",
        "-Fc",
        "-Z0",
        f"--snapshot={desk.orders['snapshot']}",
        f"--lock-wait-timeout={round(lock_wait_s * 1000)}ms",
        "-d",
        desk.address.argument,
    ]


def dump_globals(desk: Desk, *, key: str) -> dict[str, Any]:
    """Store roles and settings with their values: encrypted, as a setting can be a secret; without passwords."""
    return desk.store(key, _globals(desk))


def _globals(desk: Desk) -> Iterator[bytes]:
    arguments = ["pg_dumpall", "--globals-only", "--no-role-passwords", "-l", desk.address.database]
    yield from desk.tool_pieces("pg_dumpall of roles", arguments)
    yield b"\n-- settings of this database\n"
    with said("reading the settings of the database"):
        for role, assignment in rows(desk.connection, _DATABASE_SETTINGS):
            yield _setting(desk.address.database, role, assignment).encode()


def _setting(database: str, role: str | None, assignment: str) -> str:
    name, _, value = assignment.partition("=")
    whose = f"role {ident(role)} in database {ident(database)}" if role else f"database {ident(database)}"
    shown = value if name.lower() in QUOTED_LISTS and value else literal(value)  # a list is kept with its names quoted
    return f"alter {whose} set {'.'.join(map(ident, name.split('.')))} to {shown};\n"


def dump_text(desk: Desk, *, key: str, text: str) -> dict[str, Any]:
    """Store a text of the parent's."""
    return desk.store(key, iter([text.encode()]))


def hash_blobs(desk: Desk) -> dict[str, Any]:
    """Count and hash of the large objects, as the reader of desk.connection sees them."""
    count, digest = 0, xxhash.xxh3_128()
    with said("reading large objects"):
        oids = [oid for (oid,) in rows(desk.connection, "select oid::int8 from pg_largeobject_metadata order by oid")]
        for start in range(0, len(oids), LARGE_OBJECTS_AT_ONCE):
            for oid, content in rows(desk.connection, _FIRST_PIECES, [oids[start : start + LARGE_OBJECTS_AT_ONCE]]):
                count += 1
                digest.update(oid.to_bytes(8, "big"))
                digest.update(content)
                for piece in _later_pieces(desk, oid, len(content)):
                    digest.update(piece)
    return {"count": count, "xxh3_128": digest.hexdigest() if count else None}


def _later_pieces(desk: Desk, oid: int, start: int) -> Iterator[bytes]:
    size = start
    while size == PIECE:
        piece = rows(desk.connection, "select lo_get(%s::oid, %s::int8, %s)", [oid, start, PIECE])[0][0]
        start, size = start + len(piece), len(piece)
        yield piece


_DATABASE_SETTINGS = """
select r.rolname, x from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) x
where s.setdatabase = (select oid from pg_database where datname = current_database()) order by 1 nulls first, 2
"""
_FIRST_PIECES = """
select oid::int8, lo_get(oid, 0, 1048576) from pg_largeobject_metadata where oid::int8 = any (%s) order by oid
"""
JOBS = {
    "dump_table": dump_table,
    "schema": dump_schema,
    "blobs": dump_blobs,
    "globals": dump_globals,
    "text": dump_text,
    "hash_blobs": hash_blobs,
}
