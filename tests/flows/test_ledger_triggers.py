"""The ledger's own rules by themselves, with raw SQL: what no code of ours may do, whatever it believes."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from tests.parts.ledger import ledger_database, make_world

SETTLED = "operation \\d+ is settled"
BEGIN = """insert into ledger.operation (key, kind, plan, digest, holder, lease_s, expires_at, state, parent)
    values (%s, 'k', '{}', 'd', 'h', 3, now() + interval '3 s', %s, %s) returning id, token"""
STEP = """insert into ledger.step (operation, name, position, setting, arguments, want, before, back, token)
    values (%s, %s, %s, 'S', '{}', '1', '0', %s, %s)"""


class Hand:
    """An operation in the hand of somebody who writes SQL."""

    def __init__(
        self, connection: psycopg.Connection, key: str, state: str = "acting", parent: int | None = None
    ) -> None:
        self.connection = connection
        self.id, self.token = self.rows(BEGIN, key, state, parent)[0]

    def rows(self, statement: LiteralString, *values: Any) -> list[Any]:
        cursor = self.connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def step(self, name: str, position: int = 1, *, back: str = "before", token: int = 0) -> None:
        self.rows(STEP, self.id, name, position, back, token or self.token)

    def move(self, name: str, *states: str, token: int = 0) -> None:
        for state in states:
            set_ = "update ledger.step set state = %s, token = %s where operation = %s and name = %s"
            self.rows(set_, state, token or self.token, self.id, name)

    def become(self, *states: str) -> None:
        for state in states:
            self.rows("update ledger.operation set state = %s where id = %s", state, self.id)

    def taken_over(self) -> None:
        self.rows("update ledger.operation set token = nextval('ledger.token') where id = %s", self.id)


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    yield from ledger_database(postgres17)


@pytest.fixture
def connection(tmp_path: Path, address: Address) -> Generator[psycopg.Connection]:
    make_world(tmp_path, address)
    with closing(address.connect()) as connection:
        yield connection


@pytest.fixture
def hand(connection: psycopg.Connection) -> Hand:
    return Hand(connection, "k")


def refused(code: str, words: str) -> Any:
    """The ledger refuses with this SQLSTATE and these words."""
    return pytest.raises(psycopg.Error, match=words, check=lambda error: error.sqlstate == code)


def test_a_step_of_another_token_is_fenced(hand: Hand) -> None:
    hand.step("a")
    old = hand.token
    hand.taken_over()

    with refused("SK001", "is held with token"):
        hand.step("b", 2, token=old)
    with refused("SK001", "is held with token"):
        hand.move("a", "done", token=old)


def test_a_statement_that_forgets_the_token_is_fenced_too(hand: Hand) -> None:
    hand.step("a")
    hand.taken_over()

    with refused("SK001", "is held with token"):
        hand.rows("update ledger.step set state = 'done' where operation = %s", hand.id)


def test_a_settled_operation_never_changes(hand: Hand) -> None:
    hand.become("committed", "done")

    with refused("SK001", SETTLED):
        hand.step("a")
    for change in ("state = 'acting'", "trouble = 'x'", "ended_at = null", "token = token + 1"):
        with refused("SK001", SETTLED):
            hand.connection.execute(f"update ledger.operation set {change}".encode())  # noqa: S608


@pytest.mark.parametrize(
    ("path", "move"),
    [
        ("", "done"),
        ("", "undone"),
        ("committed", "acting"),
        ("committed", "undoing"),
        ("committed", "undone"),
        ("undoing", "acting"),
        ("undoing", "committed"),
        ("undoing", "done"),
    ],
)
def test_an_operation_moves_one_way(hand: Hand, path: str, move: str) -> None:
    hand.become(*path.split())

    with refused("SK002", f"cannot go from .* to {move}"):
        hand.become(move)


def test_what_an_operation_is_never_changes(hand: Hand) -> None:
    for change in ("key = 'x'", "kind = 'x'", "plan = '[1]'", "digest = 'x'", "parent = id", "began_at = now()"):
        with refused("SK002", "is recorded"):
            hand.connection.execute(f"update ledger.operation set {change}".encode())  # noqa: S608
    with refused("SK002", "token only grow"):
        hand.rows("update ledger.operation set token = token - 1")


def test_it_is_done_only_when_all_steps_are_done_and_undone_only_when_all_are_undone(hand: Hand) -> None:
    hand.step("a")
    hand.become("committed")
    with refused("SK002", "is not done: one of its steps is not"):
        hand.become("done")

    other = Hand(hand.connection, "k2")
    other.step("a")
    other.move("a", "done")
    other.become("undoing")
    with refused("SK002", "is not undone: one of its steps is not"):
        other.become("undone")


@pytest.mark.parametrize(
    ("path", "move"),
    [
        ("", "undone"),
        ("done", "intent"),
        ("done", "undone"),
        ("undoing", "undone done"),
        ("undoing", "done"),
        ("undoing", "intent"),
        ("undoing undone", "undoing"),
    ],
)
def test_a_step_moves_one_way(hand: Hand, path: str, move: str) -> None:
    hand.step("a")
    for state in path.split():
        if state == "undoing":
            hand.become("undoing")
        hand.move("a", state)

    with refused("SK002", "cannot"):
        hand.move("a", *move.split())


def test_a_step_begins_as_an_intent(hand: Hand) -> None:
    with refused("SK002", "begins as done"):
        hand.rows(
            STEP.replace("back, token)", "back, token, state)").replace("%s, %s)", "%s, %s, 'done')"),
            hand.id,
            "a",
            1,
            "before",
            hand.token,
        )


def test_nothing_goes_forward_while_undoing_and_nothing_back_before(hand: Hand) -> None:
    hand.step("a")
    with refused("SK002", "is acting: step a cannot be undone"):
        hand.move("a", "undoing")
    hand.become("undoing")
    with refused("SK002", "is being undone: step b cannot go forward"):
        hand.step("b", 2)
    with refused("SK002", "is being undone: step a cannot go forward"):
        hand.move("a", "done")


def test_nothing_is_undone_after_the_commit(hand: Hand) -> None:
    hand.step("a")
    hand.move("a", "done")
    hand.become("committed")

    with refused("SK002", "is committed: step a cannot be undone"):
        hand.move("a", "undoing")


def test_what_a_step_sets_never_changes(hand: Hand) -> None:
    hand.step("a")

    for change in (
        "want = '2'",
        "before = '2'",
        "setting = 'T'",
        "arguments = '[1]'",
        "back = 'nothing'",
        "position = 7",
    ):
        with refused("SK002", "is recorded: what it sets cannot change"):
            hand.connection.execute(f"update ledger.step set {change}".encode())  # noqa: S608


def test_a_one_way_step_waits_for_the_commit(hand: Hand) -> None:
    with refused("SK002", "is one way"):
        hand.step("a", back="never")
    hand.become("committed")
    hand.step("a", back="never")


def test_one_step_is_in_doubt_at_a_time_and_undoing_goes_in_reverse(hand: Hand) -> None:
    hand.step("a")
    with refused("23505", "one_step_in_doubt"):
        hand.step("b", 2)
    hand.move("a", "done")
    hand.step("b", 2)
    hand.move("b", "done")
    hand.become("undoing")

    with refused("SK002", "is not the last one"):
        hand.move("a", "undoing")
    hand.move("b", "undoing", "undone")
    hand.move("a", "undoing", "undone")
    hand.become("undone")


def test_a_scope_has_one_holder_until_it_settles(hand: Hand) -> None:
    hold = "insert into ledger.hold (scope, operation) values ('s/release', %s) returning rank"
    assert hand.rows(hold, hand.id) == [(1,)]
    other = Hand(hand.connection, "k2")
    with refused("23505", "hold_pkey"):
        other.rows(hold, other.id)

    hand.become("undoing", "undone")
    other.rows(hold, other.id)


@pytest.mark.parametrize("scope", ["s", "s/releases", "s/database/", "s/backups/a/b", "/release", "a/b/release"])
def test_a_scope_of_unknown_form_has_no_rank(hand: Hand, scope: str) -> None:
    with refused("23502", "rank"):
        hand.rows("insert into ledger.hold (scope, operation) values (%s, %s)", scope, hand.id)


def test_a_child_waits_upwards_only(hand: Hand) -> None:
    hold = "insert into ledger.hold (scope, operation) values (%s, %s)"
    hand.rows(hold, "s/database/a", hand.id)
    child = Hand(hand.connection, "k/c", parent=hand.id)
    child.rows(hold, "s/backups/a", child.id)
    grandchild = Hand(hand.connection, "k/c/g", parent=child.id)

    for scope in ("s/release", "s/database/b", "s/backups/b"):
        with refused("SK002", "which is not below it"):
            grandchild.rows(hold, scope, grandchild.id)


def test_a_key_is_used_once(hand: Hand) -> None:
    hand.become("undoing", "undone")

    with refused("23505", "operation_key_key"):
        Hand(hand.connection, "k")


@pytest.mark.parametrize("table", ["backup", "proof", "check", "tick"])
def test_records_are_fenced_when_they_name_an_operation(hand: Hand, table: str) -> None:
    names, values = {
        "backup": ("id, at, record", "'b', now(), '{}'"),
        "proof": ("backup, at, record", "'b', now(), '{}'"),
        "check": ("backup, rung, at, record", "'b', 0, now(), '{}'"),
        "tick": ("name", "'t'"),
    }[table]
    write = f'insert into ledger."{table}" ({names}, operation, token) values ({values}, %s, %s)'.encode()  # noqa: S608
    with refused("SK001", "is held with token"):
        hand.connection.execute(write, [hand.id, hand.token + 1])
    with refused("23514", "operation_with_token"):
        hand.connection.execute(write, [None, 1])
    hand.connection.execute(write, [hand.id, hand.token])
    hand.become("committed", "done")
    with refused("SK001", SETTLED):
        hand.connection.execute(f'update ledger."{table}" set at = now()'.encode())  # noqa: S608


def test_the_triggers_tell_the_story(hand: Hand) -> None:
    hand.step("a")
    hand.move("a", "done")
    hand.rows("update ledger.operation set expires_at = now(), trouble = 'slow', failures = 1")
    hand.taken_over()
    hand.become("committed", "done")

    told = [what for (what,) in hand.rows("select what from ledger.event order by id")]
    assert told == ["begun by h", "intent: a", "done: a", "trouble: slow", "taken over by h", "committed", "done"]
