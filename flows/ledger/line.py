"""One connection to the ledger that never waits longer than it may, and is made anew when it broke.

A frozen server answers neither statement_timeout nor tcp_user_timeout, so a timer shuts the socket under a statement
that takes too long. All may be repeated: it is asked again until `patience_s` is over, then the ledger is Unheard.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow, dict_row

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address, translate
from flows.ledger.errors import Fenced, Unheard
from flows.ledger.migrate import refuse_foreign

PAUSE_S = 0.1
BOUNDS = """select set_config('lock_timeout', %(ms)s, false), set_config('statement_timeout', %(ms)s, false),
    set_config('idle_in_transaction_session_timeout', %(ms)s, false)"""


class Line:
    """Statements to the ledger in autocommit, one at a time from any thread; `lease_s` sets all its time-outs."""

    def __init__(
        self,
        address: Address,
        lease_s: float,
        owner: str | None = None,
        application_name: str = "shipkeeper ledger",
        *,
        looks: bool = True,
    ) -> None:
        """`owner`: the stage whose ledger it must be.

        Refused at the first statement of a connection when it is another's, or newer than this code. One that does not
        look saves two round trips: for an operation that was begun over one that does.
        """
        self._address = replace(address, connect_timeout_s=max(2, min(address.connect_timeout_s, round(lease_s / 2))))
        self._lease_s, self._application_name, self._owner, self._looks = lease_s, application_name, owner, looks
        self._connection: psycopg.Connection[DictRow] | None = None
        self._one = threading.Lock()

    def ask(self, statement: LiteralString, values: Sequence[Any] = (), *, patience_s: float = 0.0) -> list[DictRow]:
        """The rows of one statement. Raises Fenced (SK001), Refused (SK002), Unheard; a UniqueViolation as it is."""
        end = time.monotonic() + patience_s
        while True:
            try:
                with self._one:
                    return self._asked(statement, values)
            except Unheard:
                if time.monotonic() > end:
                    raise
                time.sleep(PAUSE_S)  # between two tries of one statement: there is no event to await

    def close(self) -> None:
        """Leave; the next statement would connect again."""
        with self._one:
            self._drop()

    def __del__(self) -> None:
        self._drop()  # nobody can ask over it any more

    def _asked(self, statement: LiteralString, values: Sequence[Any]) -> list[DictRow]:
        try:
            connection = self._connection or self._connect()
            with _cut_after(connection, self._lease_s / 2):
                cursor = connection.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        except psycopg.errors.UniqueViolation:
            raise
        except psycopg.Error as error:
            raise self._meaning(error) from None
        except Unreachable as error:
            raise Unheard(f"the ledger does not answer: {error}") from None
        except BaseException:  # a cancel in the middle of a statement: nobody may use this connection again
            self._drop()
            raise

    def _connect(self) -> psycopg.Connection[DictRow]:
        connection = _with_dicts(self._address.connect(application_name=self._application_name))
        try:
            with _cut_after(connection, self._lease_s / 2):
                connection.execute(BOUNDS, {"ms": f"{round(self._lease_s * 1000 / 3)}ms"})
                if self._looks:
                    refuse_foreign(connection, self._address, self._owner)
        except BaseException:  # nothing is ever asked over one that was not checked
            connection.close()
            raise
        self._connection = connection
        return connection

    def _meaning(self, error: psycopg.Error) -> Exception:
        sentence = error.diag.message_primary or ""
        if error.sqlstate == "SK001":
            return Fenced(f"{sentence}: another process has taken it over, nothing more is touched here")
        if error.sqlstate == "SK002":
            return Refused(f"the ledger refuses: {sentence}")
        meaning = translate(error, f"asking the ledger {self._address}")
        if not isinstance(meaning, Unreachable):
            return meaning
        self._drop()
        return Unheard(str(meaning))

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _with_dicts(connection: psycopg.Connection[Any]) -> psycopg.Connection[DictRow]:
    connection.row_factory = dict_row
    return connection


@contextlib.contextmanager
def _cut_after(connection: psycopg.Connection[DictRow], seconds: float) -> Generator[None]:
    timer = threading.Timer(seconds, _shut, [connection.fileno()])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # so that it never shuts what later gets this number


def _shut(number: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(number)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
