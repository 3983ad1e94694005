"""The jobs of a comparison, in a worker: what a restored database holds, read as the dump read it.

Nothing is written. A row's values never leave a worker: a difference names the row's number, and its key where that is
a number or a UUID.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
import xxhash

from blocks.postgres.address import said
from blocks.postgres.catalogue import lines
from blocks.postgres.contents import Table
from blocks.postgres.desk import Desk
from blocks.postgres.dump_jobs import hash_blobs, table_pieces
from blocks.postgres.pins import literal, rows, run
from blocks.stream import Facts

ORDER = "the order of its rows"
_NAMEABLE = re.compile(rb"-?\d{1,20}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HASHES = 1 << 128


def measured(pieces: Iterator[bytes]) -> tuple[str, int]:
    """Hash and length of a stream that goes nowhere. Equal to `text_of` it has as many rows, too: none is counted."""
    size, digest = 0, xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def facts_of(stored: Mapping[str, Any]) -> Facts:
    """The facts that the manifest states of a data object."""
    return Facts(stored["rows"], stored["xxh3_128"], stored["plain_bytes"])


def text_of(facts: Facts) -> tuple[str, int]:
    """What `measured` gives of the stream that has these facts."""
    return facts.xxh3_128, facts.plain_bytes


def read_table(desk: Desk, *, table: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Read one table back; on a difference its object is read beside it, to say where."""
    it, wanted = Table.of(table), facts_of(stored)
    found = measured(table_pieces(desk, it, wanted.plain_bytes))
    if found == text_of(wanted):
        return {"differs": None}
    both = Both(lines_of(table_pieces(desk, it, wanted.plain_bytes)), it)
    splitter = Splitter(both.compare)
    desk.fetch(stored["key"], splitter.feed, stored["sha256"])
    return {"differs": both.verdict(), "rows": both.rows, "xxh3_128": found[0]}


class Splitter:
    """Whole lines out of pieces, without looking at a byte twice however long a line is."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._held: list[bytes] = []

    def feed(self, piece: bytes) -> None:
        """Take a piece; every line that it ends is passed on."""
        first, *others = piece.split(b"\n")
        self._held.append(first)
        for other in others:
            self._take(b"".join(self._held))
            self._held = [other]


def lines_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a stream, without their ends."""
    whole: list[bytes] = []
    splitter = Splitter(whole.append)
    for piece in pieces:
        splitter.feed(piece)
        yield from whole
        whole.clear()


class Both:
    """The lines of the object beside those of the table: the first that differs, and whether sorted they are the same.

    `rows` counts the table's, once there is a verdict.

    The sum of all lines' hashes is the same for the same lines in any order, and for no others (but once in 2^128).
    """

    def __init__(self, found: Iterator[bytes], table: Table) -> None:
        self._found, self._table = found, table
        self._number = self._sum = self.rows = 0
        self._first: str | None = None

    def compare(self, wanted: bytes) -> None:
        """Hold a line of the object against the next one of the table."""
        self._number += 1
        other = next(self._found, None)
        self.rows += other is not None
        self._sum += _hashed(wanted) - (0 if other is None else _hashed(other))
        if other != wanted and self._first is None:
            self._first = self._named(wanted)

    def verdict(self) -> str:
        """Where they part, once the object is through; call it once."""
        for surplus in self._found:
            self.rows += 1
            self._sum -= _hashed(surplus)
            self._first = self._first or f"row {self._number + 1} is one too many"
        return ORDER if self._sum % _HASHES == 0 else f"first at {self._first}"

    def _named(self, line: bytes) -> str:
        fields = dict(zip(self._table.columns, line.split(b"\t"), strict=False))
        key = [(name, fields.get(name, b"")) for name in self._table.key]
        if not key or not all(_NAMEABLE.fullmatch(value) for _, value in key):
            return f"row {self._number}"
        return f"row {self._number} ({', '.join(f'{name} {value.decode()}' for name, value in key)})"


def _hashed(line: bytes) -> int:
    return xxhash.xxh3_128_intdigest(line)


def read_lines(desk: Desk) -> dict[str, Any]:
    """The schema's lines as they are now."""
    with said(f"reading the schema of {desk.address}"):
        return {"lines": lines(desk.connection)}


def fetch_text(desk: Desk, *, key: str, sha256: str) -> dict[str, Any]:
    """A text object, decrypted."""
    pieces: list[bytes] = []
    desk.fetch(key, pieces.append, sha256)
    return {"text": b"".join(pieces).decode()}


def read_state(desk: Desk) -> dict[str, Any]:
    """Sequences' values, what is not valid, which matviews are populated, which extensions are there."""
    with said(f"reading the state of {desk.address}"):
        names = rows(desk.connection, _SEQUENCES)
        return {
            "sequences": [[schema, name, *_sequence(desk.connection, ident)] for schema, name, ident in names],
            "invalid": [name for (name,) in rows(desk.connection, _INVALID)],
            "matviews": [name for (name,) in rows(desk.connection, _POPULATED)],
            "extensions": [list(row) for row in rows(desk.connection, _EXTENSIONS)],
        }


def _sequence(connection: psycopg.Connection, ident: str) -> list[Any]:
    return list(rows(connection, f"select last_value::text, is_called from {ident}")[0])  # noqa: S608 - quoted by Postgres


def check_indexes(desk: Desk) -> dict[str, Any]:
    """Every B-tree against its table by amcheck, which leaves no trace: its extension is rolled back."""
    if not rows(desk.connection, _CAN_CHECK)[0][0]:
        return {"lacks": "amcheck", "broken": [], "checked": 0}
    with said(f"checking the indexes of {desk.address}"), desk.connection.transaction(force_rollback=True):
        run(desk.connection, "create schema shipkeeper_amcheck")
        run(desk.connection, "create extension amcheck schema shipkeeper_amcheck")
        indexes = rows(desk.connection, _BTREES)
        broken = [name for oid, name in indexes if not _is_sound(desk.connection, oid)]
    return {"lacks": None, "broken": broken, "checked": len(indexes)}


def _is_sound(connection: psycopg.Connection, oid: int) -> bool:
    try:
        with connection.transaction():
            run(connection, f"select shipkeeper_amcheck.bt_index_check({literal(str(oid))}::oid::regclass, true)")
    except (psycopg.errors.IndexCorrupted, psycopg.errors.DataCorrupted):
        return False
    return True


_HERE = "n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'"
_SEQUENCES = f"""
select n.nspname, c.relname, format('%I.%I', n.nspname, c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'S' and {_HERE} order by 1, 2
"""  # noqa: S608 - constants
_INVALID = f"""
select format('index %s.%s', n.nspname, c.relname)
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
where not (i.indisvalid and i.indisready) and {_HERE} order by 1
"""  # noqa: S608 - constants
_POPULATED = f"""
select format('%s.%s', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'm' and c.relispopulated and {_HERE} order by 1
"""  # noqa: S608 - constants
_EXTENSIONS = """
select e.extname, e.extversion, n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace order by 1
"""
_CAN_CHECK = """
select (select rolsuper from pg_roles where rolname = current_user)
  and exists (select from pg_available_extensions where name = 'amcheck')
  and not exists (select from pg_extension where extname = 'amcheck')
"""
_BTREES = f"""
select c.oid, format('%s.%s', n.nspname, c.relname)
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
join pg_am a on a.oid = c.relam
where a.amname = 'btree' and c.relkind = 'i' and i.indisvalid and c.relpersistence <> 't' and {_HERE} order by 2
"""  # noqa: S608 - constants
JOBS = {
    "read_table": read_table,
    "read_lines": read_lines,
    "read_blobs": hash_blobs,
    "read_state": read_state,
    "fetch_text": fetch_text,
    "check_indexes": check_indexes,
}
