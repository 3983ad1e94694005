"""What is remembered of backups: a cache of the bucket's manifests and proofs; failed ones with their cause, checks.

A row written for an operation is fenced by its token; one written without (reconcile reads the bucket) is not.
"""

from datetime import timedelta
from typing import Any, LiteralString, assert_never

from psycopg.types.json import Jsonb

from flows.ledger.line import Line
from flows.ledger.operation import Operation
from flows.records import Backup, Check, Proof

REMEMBER_BACKUP = """insert into ledger.backup as r (id, at, record, operation, token) values (%s, %s, %s, %s, %s)
    on conflict (id) do update set at = excluded.at, record = excluded.record, operation = excluded.operation,
        token = excluded.token, remembered_at = clock_timestamp()"""
REMEMBER_PROOF = """insert into ledger.proof as r (backup, at, record, operation, token) values (%s, %s, %s, %s, %s)
    on conflict (backup, at) do update set record = excluded.record, operation = excluded.operation,
        token = excluded.token, remembered_at = clock_timestamp()"""
REMEMBER_CHECK = """insert into ledger."check" as r (backup, rung, at, record, operation, token)
    values (%s, %s, %s, %s, %s, %s) on conflict (backup, rung, at) do update set record = excluded.record,
        operation = excluded.operation, token = excluded.token, remembered_at = clock_timestamp()"""
FORGET = """with p as (delete from ledger.proof where backup = %s), c as (delete from ledger."check" where backup = %s)
    delete from ledger.backup where id = %s returning id"""
OLD_CHECKS = """delete from ledger."check" c where at < clock_timestamp() - %s and exists (select from ledger."check" n
    where n.backup = c.backup and n.rung = c.rung and n.at > c.at)"""
STORY = timedelta(days=90)
KEYS = timedelta(days=730)
OLD_STEPS = """delete from ledger.step s using ledger.operation o
    where o.id = s.operation and o.ended_at < clock_timestamp() - %s"""
OLD_EVENTS = """delete from ledger.event e using ledger.operation o
    where o.id = e.operation and o.ended_at < clock_timestamp() - %s"""
OLD_OPERATIONS = """delete from ledger.operation o where ended_at < clock_timestamp() - %s
    and not exists (select from ledger.operation c where c.parent = o.id)
    and not exists (select from ledger.event e where e.operation = o.id)
    and not exists (select from ledger.step s where s.operation = o.id)"""


def remember(line: Line, record: Backup | Proof | Check, op: Operation | None) -> None:
    """Write the record, or write it again."""
    writer = [op.id, op.token] if op else [None, None]
    text = Jsonb(record.model_dump(mode="json"))
    match record:
        case Backup():
            line.ask(REMEMBER_BACKUP, [record.id, record.at, text, *writer])
        case Proof():
            line.ask(REMEMBER_PROOF, [record.backup, record.at, text, *writer])
        case Check():
            line.ask(REMEMBER_CHECK, [record.backup, record.rung, record.at, text, *writer])
        case _:
            assert_never(record)


def recall(line: Line, statement: LiteralString, values: list[Any] | None = None) -> list[Any]:
    """The `record` column of what the statement finds."""
    return [row["record"] for row in line.ask(statement, values or [])]


def sweep(line: Line) -> str:
    """Forget steps and events after 90 days, operations (and so their keys) after two years; says how many."""
    for statement in (OLD_STEPS, OLD_EVENTS, OLD_CHECKS):
        line.ask(statement, [STORY])
    line.ask(OLD_OPERATIONS, [KEYS])
    return "forgot steps and events of operations settled 90 days ago, and operations settled two years ago"
