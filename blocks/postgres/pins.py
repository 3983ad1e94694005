# ruff: noqa: S608 - values are quoted by literal()
"""The settings under which a table's text is the same on both sides, and the quoting of names in SQL.

A setting of a role or database changes what COPY prints, and a pooler drops what comes as start-up options: so each
connection is pinned by SQL and read back. `client_encoding` is given to each COPY instead, as
names stay UTF-8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from blocks.errors import Refused

Rows = list[tuple[Any, ...]]
TEXT = {
    "extra_float_digits": "3",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "TimeZone": "UTC",
}
SESSION = {
    "search_path": "",
    "row_security": "off",
    "synchronize_seqscans": "off",
    "standard_conforming_strings": "on",
    "max_parallel_workers_per_gather": "0",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
SINCE_17 = {"transaction_timeout": "0"}
QUOTED_LISTS = frozenset({
    "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
    "temp_tablespaces", "unix_socket_directories",
})  # fmt: skip
"""Settings that Postgres stores as a list with its names quoted (GUC_LIST_QUOTE; no catalogue tells): as in pg_dump."""
_V17 = 170000


def ident(name: str) -> str:
    """A name as SQL reads it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL reads it, with standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"


def qualified(schema: str, name: str) -> str:
    """schema.name as SQL reads it."""
    return f"{ident(schema)}.{ident(name)}"


def listed(columns: Sequence[str]) -> str:
    """The column list of a COPY with its blank; nothing for a table without columns."""
    return f" ({', '.join(map(ident, columns))})" if columns else ""


def rows(connection: psycopg.Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> Rows:
    """All rows of a statement that was put together here."""
    return connection.execute(sql.encode(), parameters).fetchall()


def run(connection: psycopg.Connection, sql: str) -> None:
    """A statement without rows."""
    connection.execute(sql.encode())


def of_database(connection: psycopg.Connection) -> dict[str, str]:
    """The pins of a backup of this database: the manifest's "pinned"."""
    encoding, money = rows(connection, "select getdatabaseencoding(), current_setting('lc_monetary')")[0]
    return {**TEXT, "client_encoding": encoding, "lc_monetary": money}


def statements(pinned: Mapping[str, str], version: int) -> list[str]:
    """The SET statements for a session on a server of this version number."""
    wanted = _settings(pinned) | SESSION | (SINCE_17 if version >= _V17 else {})
    return [f"set {name} = {literal(value)}" for name, value in wanted.items()]


def proof(pinned: Mapping[str, str]) -> str:
    """A query that fails, naming the setting, when a pin did not arrive."""
    wanted = ", ".join(f"({literal(name)}, {literal(value)})" for name, value in _settings(pinned).items())
    return (
        "select ('did not arrive: ' || string_agg(name, ', '))::int from "
        f"(values {wanted}) as w(name, value) where current_setting(name) <> value"
    )


def pin(connection: psycopg.Connection, pinned: Mapping[str, str]) -> None:
    """Pin a connection and read the pins back."""
    for statement in statements(pinned, connection.info.server_version):
        run(connection, statement)
    arrived = {name: str(rows(connection, "select current_setting(%s)", [name])[0][0]) for name in _settings(pinned)}
    if lost := [name for name, value in _settings(pinned).items() if arrived[name] != value]:
        raise Refused(f"{', '.join(lost)} did not arrive in the session: connect directly or in session mode")


def _settings(pinned: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in pinned.items() if name != "client_encoding"}
