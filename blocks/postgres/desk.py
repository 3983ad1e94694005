"""What a worker works with: its orders, the store, one pinned connection, the tools it started, the count of bytes.

Every tool started here is known until it ended, so that a worker that must leave ends them all. A tool's end of file
says nothing: only its exit code does, and its error is told by its first line, without detail, as that may hold values.
"""

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import psycopg

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address, said
from blocks.postgres.pins import literal, pin, run
from blocks.storage.objects import PART_BYTES, Objects, place_from_json
from blocks.stream import PIECE, Facts, pack, process_pieces, unpack

SMALL_BYTES = 1 << 20
READER_WAIT_S = 3
_TELL_EVERY_S = 0.5
_MOST_PARTS = 9000
_PSQL_LOST_ITS_CONNECTION = 2
_ERROR_BYTES = 4096
_LOCK_NOT_AVAILABLE = "55P03"
_TOLD = re.compile(r"(?:ERROR|FATAL|error): +(?:(?P<state>[0-9A-Z]{5}): +)?(?P<sentence>.*)")


@dataclass(frozen=True)
class Tool:
    """A call of one of Postgres' tools: `what` names it in an error, `arguments` begin with the program's name."""

    what: str
    arguments: Sequence[str]
    stdin: int | IO[bytes] = subprocess.DEVNULL
    stdout: int = subprocess.DEVNULL
    keep_open: Sequence[int] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


class StoreSilent(Unreachable):
    """The store did not answer: the object may be tried again while the snapshot is held."""


class Locked(Unreachable):
    """Somebody waits for an exclusive lock, and readers queue behind him: only the snapshot's holder can read on."""


class Desk:
    """One worker's means."""

    def __init__(self, orders: Mapping[str, Any], moved: Callable[[int], None]) -> None:
        self.orders = orders
        self.address = Address.from_json(orders["address"])
        self.prefix = str(orders["prefix"])
        self.pinned: Mapping[str, str] = orders["pinned"]
        self._moved = _Moved(moved)
        self._tools: set[subprocess.Popen[bytes]] = set()
        self._leaving = threading.Event()

    @cached_property
    def objects(self) -> Objects:
        """The store."""
        return place_from_json(self.orders["place"]).open()

    @cached_property
    def connection(self) -> psycopg.Connection:
        """A pinned connection for what is too small for a tool of its own; in the snapshot, where there is one."""
        connection = self.address.connect(application_name=self.orders["application_name"])
        with said(f"pinning a session on {self.address}"):
            pin(connection, self.pinned)
            for statement in self.entering_snapshot():
                run(connection, statement)
        return connection

    def entering_snapshot(self) -> list[str]:
        """The statements that make a session a reader of the snapshot, who waits for no lock; none without one."""
        if not (snapshot := self.orders.get("snapshot")):
            return []
        return [
            f"set lock_timeout = '{READER_WAIT_S}s'",
            "begin isolation level repeatable read read only",
            f"set transaction snapshot {literal(snapshot)}",
        ]

    @contextmanager
    def reading(self, doing: str) -> Generator[psycopg.Connection]:
        """The connection for one read; a lock that others queue for costs the connection, not the dump."""
        with said(doing):
            try:
                yield self.connection
            except psycopg.errors.LockNotAvailable:
                self.connection.close()
                del self.connection
                raise Locked(f"{doing}: somebody waits for an exclusive lock on it") from None

    # ---- the store

    def store(self, key: str, pieces: Iterator[bytes], *, estimate_bytes: int = 0) -> dict[str, Any]:
        """Pack pieces into the object key; gives what the manifest says of it."""
        source = _Source(pieces, self._moved)
        orders = self.orders
        upload = self.objects.upload(
            self.prefix + key,
            part_bytes=part_bytes(estimate_bytes),
            metadata=orders["metadata"],
            storage_class=orders["storage_class"],
        )
        try:
            with upload as sink:
                facts = pack(iter(source), sink, orders["recipients"], level=orders["level"])
        except Unreachable as error:
            if error is source.failure:
                raise
            raise StoreSilent(str(error)) from None
        stored = sink.stored
        return {
            "key": key,
            "bytes": stored.bytes,
            "sha256": stored.sha256,
            "parts": [{"bytes": part.bytes, "sha256": part.sha256} for part in stored.parts],
            **facts_json(facts),
        }

    def fetch(self, key: str, write: Callable[[bytes], object], sha256: str) -> Facts:
        """Unpack the object key into write; what it got is tentative until this returned."""

        def counted(piece: bytes) -> None:
            self._moved.add(len(piece))
            write(piece)

        return unpack(self.objects.read(self.prefix + key), counted, self.orders["identities"], sha256=sha256)

    # ---- the tools

    def tool_pieces(self, what: str, arguments: Sequence[str]) -> Iterator[bytes]:
        """A tool's output; `what` names it in an error, `arguments` begin with its name (pg_dump, psql ...)."""
        with self.running(Tool(what, arguments, stdout=subprocess.PIPE)) as (process, errors):
            try:
                yield from process_pieces(process, what)
            except Refused as error:
                raise (tool_error(what, process.returncode, errors) if process.returncode else error) from None

    def run_tool(self, tool: "Tool") -> None:
        """Run a tool to its end; Refused or Unreachable unless that is 0."""
        with self.running(tool) as (process, errors):
            if process.wait():
                raise tool_error(tool.what, process.returncode, errors)

    @contextmanager
    def running(self, tool: "Tool") -> Generator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """A running tool and the file of its errors; it has ended when the block is left."""
        with tempfile.TemporaryFile() as errors:
            process = self._started(tool, errors)
            self._tools.add(process)
            try:
                if self._leaving.is_set():
                    raise Unreachable(f"{tool.what} was ended: this worker's parent is gone")
                yield process, errors
            finally:
                _end(process)
                self._tools.discard(process)

    def _started(self, tool: "Tool", errors: IO[bytes]) -> "subprocess.Popen[bytes]":
        """The parent's death may come at any moment: `leave` ends what is known, `running` what it did not know yet."""
        named = {"PGAPPNAME": self.orders["application_name"], "LC_MESSAGES": "C"}
        return subprocess.Popen(
            [str(Path(self.orders["bin"]) / tool.arguments[0]), *tool.arguments[1:]],
            env={**os.environ, **self.address.environ(), **named, **tool.variables},
            bufsize=0,
            stdin=tool.stdin,
            stdout=tool.stdout,
            stderr=errors,
            pass_fds=tool.keep_open,
        )

    def end_tools(self) -> None:
        """End what a job left running; a job that ended well left nothing."""
        for process in list(self._tools):
            _end(process)

    def leave(self) -> None:
        """End the tools now, and start none any more: what reads from them fails, and its upload is aborted."""
        self._leaving.set()
        for process in list(self._tools):
            process.kill()


def part_bytes(estimate_bytes: int) -> int:
    """The part size that keeps an object of twice the estimate under the store's 10 000 parts, in whole MiB."""
    wanted = -(-2 * estimate_bytes // _MOST_PARTS)
    return max(PART_BYTES, -(-wanted // PIECE) * PIECE)


def facts_json(facts: Facts) -> dict[str, Any]:
    """Facts as a line on the pipe."""
    return {"rows": facts.rows, "xxh3_128": facts.xxh3_128, "plain_bytes": facts.plain_bytes}


def coalesced(pieces: Iterator[bytes | memoryview | bytearray]) -> Iterator[bytes]:
    """Pieces of about 1 MiB: psycopg hands out one a row."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


class _Source:
    """Pieces on their way, counted; what they raise is kept, to tell a failed producer from a failed store."""

    def __init__(self, pieces: Iterator[bytes], moved: "_Moved") -> None:
        self._pieces, self._moved = pieces, moved
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._pieces:
                self._moved.add(len(piece))
                yield piece
        except BaseException as error:
            self.failure = error
            raise


class _Moved:
    """Tells how many plain bytes went by, now and then."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._untold, self._told_at = tell, 0, time.monotonic()

    def add(self, size: int) -> None:
        self._untold += size
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._tell(self._untold)
            self._untold, self._told_at = 0, time.monotonic()


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


def tool_error(what: str, code: int, errors: IO[bytes]) -> Refused | Unreachable:
    """A connection that broke or a tool that was killed may come right; anything else the tool said itself."""
    errors.seek(0)
    told = _TOLD.search(errors.read(_ERROR_BYTES).decode(errors="replace"))
    state, sentence = (
        (told["state"], told["sentence"][:300]) if told else (None, f"it ended with {code}, without a word")
    )
    if state == _LOCK_NOT_AVAILABLE:
        return Locked(f"{what} failed: somebody waits for an exclusive lock on it")
    lost = (
        code < 0
        or code == _PSQL_LOST_ITS_CONNECTION
        or re.search(r"connection|could not connect|terminating|57P0", told[0] if told else "")
    )
    return (Unreachable if lost else Refused)(f"{what} failed: {sentence}")
