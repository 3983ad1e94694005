"""One snapshot for everything, held open while others read from it.

The invariant: every table that is listed was locked before the snapshot was taken, so that what it shows cannot be
truncated or rewritten away (TRUNCATE is not MVCC-safe: a table truncated after the snapshot would read as empty,
without an error). Order: list, begin, lock, export, list again; where the lists differ, from the start.
While it is held, ALTER, DROP and TRUNCATE wait, and vacuum keeps what it shows: how long, is the caller's to say.
Sequences are not in a snapshot: they are read once, after it, and so are never behind the rows.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.errors import LockNotAvailable

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address, said
from blocks.postgres.catalogue import lines
from blocks.postgres.contents import Excluded, SequenceValue, Table
from blocks.postgres.pins import of_database, pin, qualified, rows, run
from blocks.postgres.survey import Relation, Rules, Survey, left_out_schemas, look, relations, survey

__all__ = ["Excluded", "Held", "Snapshot", "Survey", "Table", "hold", "survey"]

KEEPALIVE_S = 20
_TRIES = 5
_SEQUENCES_AT_ONCE = 200
Listing = list[tuple[int, Table]]


@dataclass(frozen=True)
class Snapshot:
    """What was exported, and the point in time it stands for; `lsn` and `pg_snapshot` are Postgres' own texts."""

    id: str
    time: datetime
    lsn: str
    taken_from: str
    replay_lag_seconds: float | None
    pg_snapshot: str

    def to_json(self) -> dict[str, Any]:
        """The manifest's "snapshot"."""
        return {
            "time": self.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "lsn": self.lsn,
            "from": self.taken_from,
            "replay_lag_seconds": self.replay_lag_seconds,
            "pg_snapshot": self.pg_snapshot,
        }


@dataclass(frozen=True)
class Held:
    """A held snapshot and everything that was read in it."""

    address: Address
    survey: Survey
    snapshot: Snapshot
    sequences: tuple[SequenceValue, ...]
    lines: tuple[str, ...]
    application_name: str
    _holder: "_Holder" = field(repr=False)

    def alive(self) -> None:
        """Unreachable when the holder is gone: no reader can enter the snapshot any more."""
        self._holder.ask()

    def read(self, copy: str) -> Iterator[bytes]:
        """What a COPY gives to the holder itself: its locks let it pass where other readers queue behind a TRUNCATE."""
        with said("reading over the snapshot's holder"):
            yield from self._holder.copied(copy)


@contextmanager
def hold(  # noqa: PLR0913 - options by keyword, each with a default
    address: Address,
    *,
    exclude_schemas: Sequence[str] = (),
    exclude_data: Sequence[str] = (),
    provider_schemas: Sequence[str] = (),
    lock_wait_s: float = 60,
    application_name: str = "shipkeeper",
) -> Generator[Held]:
    """Hold a snapshot of a database until the block is left.

    Refused: a right is missing, a rule matches nothing, the server's lock table is too small.
    Unreachable: a table stays locked (the sentence says by whom), or tables come and go.
    """
    rules = Rules(tuple(exclude_schemas), tuple(exclude_data), tuple(provider_schemas))
    with (
        closing(address.connect(application_name=application_name)) as lister,
        closing(address.connect(application_name=application_name)) as connection,
    ):
        with said(f"taking a snapshot of {address}"):
            pin(connection, of_database(connection))
            taken = _locked_snapshot(connection, lister, rules, lock_wait_s)
            held = _read(address, connection, taken, rules, application_name)
        lister.close()
        with _kept_awake(connection) as holder:
            yield Held(*held, _holder=holder)


def _locked_snapshot(
    connection: psycopg.Connection, lister: psycopg.Connection, rules: Rules, lock_wait_s: float
) -> Snapshot:
    standby = bool(rows(lister, "select pg_is_in_recovery()")[0][0])
    for _ in range(_TRIES):
        before = _list(lister, rules)
        run(connection, "begin isolation level repeatable read read only")
        _lock(connection, lister, before, lock_wait_s)
        snapshot = _export(connection, standby=standby)
        if _listing(_list(connection, rules)) == _listing(before):
            return snapshot
        run(connection, "rollback")
    raise Unreachable(
        f"tables came and went in {_TRIES} tries to lock them all: run it again when migrations are through"
    )


def _list(connection: psycopg.Connection, rules: Rules) -> list[Relation]:
    return relations(connection, left_out_schemas(connection, rules), exact_sizes=False)


def _listing(found: Sequence[Relation]) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(relation.oid, str(relation.table), relation.table.columns) for relation in found]


def _lock(
    connection: psycopg.Connection, lister: psycopg.Connection, found: Sequence[Relation], lock_wait_s: float
) -> None:
    """LOCK TABLE takes no snapshot: what commits before the export is still in."""
    if not found:
        return
    _demand_rights(found)
    names = ", ".join(f"only {qualified(relation.table.schema, relation.table.name)}" for relation in found)
    run(connection, f"set local lock_timeout = '{round(lock_wait_s * 1000)}ms'")
    try:
        run(connection, f"lock table {names} in access share mode")
    except LockNotAvailable:
        oids = [relation.oid for relation in found]
        raise Unreachable(_who_blocks(lister, oids, lock_wait_s)) from None
    run(connection, "set local lock_timeout = 0")


def _demand_rights(found: Sequence[Relation]) -> None:
    missing = [str(relation.table) for relation in found if not relation.readable]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")  # noqa: PLR2004
        raise Refused(
            f"the role may not read {shown}: grant it select (pg_read_all_data gives it on all), or exclude them"
        )


def _who_blocks(lister: psycopg.Connection, oids: list[int], waited_s: float) -> str:
    """Who holds, or queues for, a lock that shuts readers out; the one in a queue is named with who holds it up."""
    blockers = rows(lister, _BLOCKERS, [oids])
    named = ", ".join(
        f"{table} by pid {pid} ({who}, {state}, since {since})" for table, pid, who, state, since in blockers
    )
    return f"tables stayed locked for {waited_s:g} s: {named or 'the lock is gone now'}; end it or run the backup later"


def _export(connection: psycopg.Connection, *, standby: bool) -> Snapshot:
    row = rows(connection, _EXPORT_STANDBY if standby else _EXPORT_PRIMARY)[0]
    return Snapshot(row[0], row[1], row[2], "standby" if standby else "primary", row[3], row[4])


def _read(
    address: Address, connection: psycopg.Connection, snapshot: Snapshot, rules: Rules, application_name: str
) -> tuple[Address, Survey, Snapshot, tuple[SequenceValue, ...], tuple[str, ...], str]:
    found = look(connection, rules, is_locked=True)
    if found.missing_rights:
        raise Refused(
            f"the role lacks {', '.join(found.missing_rights[:5])}: grant it, or exclude what it must not read"
        )
    if found.locks.wanted > found.locks.available:
        raise Refused(
            f"{found.locks.wanted} locks are wanted, max_locks_per_transaction x max_connections is "
            f"{found.locks.available}: raise max_locks_per_transaction"
        )
    sequences = tuple(_sequence_values(connection, found.sequences))
    schema = tuple(lines(connection, found.excluded_schemas))
    return address, found, snapshot, sequences, schema, application_name


def _sequence_values(connection: psycopg.Connection, names: Sequence[tuple[str, str]]) -> list[SequenceValue]:
    found: list[SequenceValue] = []
    for start in range(0, len(names), _SEQUENCES_AT_ONCE):
        batch = names[start : start + _SEQUENCES_AT_ONCE]
        query = " union all ".join(
            f"select {number}, last_value::text, is_called from {qualified(*name)}"  # noqa: S608 - quoted
            for number, name in enumerate(batch)
        )
        values: list[tuple[int, str, bool]] = rows(connection, query)
        found += [SequenceValue(*batch[number], value, called) for number, value, called in values]
    return found


class _Holder:
    """The connection that holds the snapshot, asked now and then: a proxy ends what is silent."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._one_at_a_time = threading.Lock()
        self.ended = threading.Event()

    def ask(self) -> None:
        if not self._one_at_a_time.acquire(blocking=False):
            return  # it is being read from, or asked by the other thread
        try:
            self._connection.execute("select 1")
        except psycopg.Error as error:
            why = error.sqlstate or "connection lost"
            raise Unreachable(f"the snapshot's holder died ({why}): no reader can enter it any more") from None
        finally:
            self._one_at_a_time.release()

    def copied(self, copy: str) -> Iterator[bytes]:
        with self._one_at_a_time, self._connection.cursor() as cursor, cursor.copy(copy.encode()) as stream:
            yield from (bytes(piece) for piece in stream)

    def keep_awake(self) -> None:
        while not self.ended.wait(KEEPALIVE_S):
            with suppress(Unreachable):  # alive() finds it too, and raises it in the caller's own thread
                self.ask()


@contextmanager
def _kept_awake(connection: psycopg.Connection) -> Generator[_Holder]:
    holder = _Holder(connection)
    thread = threading.Thread(target=holder.keep_awake, name="snapshot holder", daemon=True)
    thread.start()
    try:
        yield holder
    finally:
        holder.ended.set()
        thread.join(KEEPALIVE_S)


# now() would be the time of `begin`, before the wait for the locks: rows committed in that wait are in the snapshot.
_EXPORT_PRIMARY = """
select pg_export_snapshot(), statement_timestamp(), pg_current_wal_lsn()::text, null::float8,
  pg_current_snapshot()::text
"""
_EXPORT_STANDBY = """
select pg_export_snapshot(), statement_timestamp(), pg_last_wal_replay_lsn()::text,
  case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
       else extract(epoch from statement_timestamp() - pg_last_xact_replay_timestamp()) end::float8,
  pg_current_snapshot()::text
"""
_BLOCKERS = """
select l.relation::regclass::text, a.pid, coalesce(nullif(a.application_name, ''), a.usename, 'unnamed'),
  coalesce(a.state, 'unknown') || case when l.granted then '' else ', itself waiting for pid '
    || array_to_string(pg_blocking_pids(a.pid), ', ') end,
  to_char(a.xact_start at time zone 'UTC', 'HH24:MI:SS"Z"')
from pg_locks l join pg_stat_activity a on a.pid = l.pid
where l.relation = any (%s) and l.mode = 'AccessExclusiveLock' order by l.granted desc, a.xact_start limit 5
"""
