"""What was served, by server and second, for those who decide: the file that `blocks.counting` keeps, read only.

That the counter is silent, or was while the time in question passed, is Unreachable, never "no errors".
"""

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl

from blocks.errors import Unreachable
from blocks.histogram import EDGES

SILENT_S = 5.0
RESTART_S = 2.0  # between two lives of the counter: less than this is the second that a kill may lose
BUCKETS = len(EDGES) + 1
MINUTE_S = 60
_AT_ONCE = timedelta(hours=1)
# +server: who reads histograms goes through the table itself, all others through its index
_BY_SECOND = """select at, server, n, errors, hist from served
  where at >= ? and at < ? and +server in ({servers}) order by at"""
_TOTALS = """select coalesce(sum(n), 0), coalesce(sum(errors), 0) from served
  where at >= ? and at < ? and server in ({servers})"""
_BY_MINUTE = """select (? - at) / 60 as back, sum(n), sum(errors) from served
  where at >= ? and at < ? and server in ({servers}) group by back"""
_BUCKETS_BY_MINUTE = """select (? - at) / 60 as back, key, sum(value) from served, json_each(hist)
  where at >= ? and at < ? and +server in ({servers}) group by back, key"""


@dataclass(frozen=True)
class Served:
    """What one server answered in one second, or one minute, that begins at `at` (seconds since 1970)."""

    at: int
    server: str
    n: int
    errors: int  # status 500 or above
    hist: tuple[int, ...]  # answers by time, in the buckets of blocks.histogram


class Counter(Block):
    """
    The file that a counter process keeps, for readers.

    Example:
        ```python
        from blocks.counter import Counter

        counter = Counter.load("BLOCK_NAME")
        print(counter.check())
        ```
    """  # noqa: D212 - Prefect reads the example from here

    _block_type_name: ClassVar[str | None] = "Request counter"
    _block_type_slug: ClassVar[str | None] = "request-counter"
    _description: ClassVar[str | None] = "What was served, by server and second, as HAProxy's log told it."
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.haproxy.org/2.8/configuration.html#8.2.3")

    file: str = Field(
        description="The absolute path of the file that `python -m blocks.counting` writes, on this host."
    )

    def seconds(self, servers: Sequence[str], start: datetime, end: datetime) -> list[Served]:
        """What those servers answered from `start` to before `end`, oldest first; a second without requests is absent.

        Unreachable when the counter has been silent, was not there for a part of that time, or has not come to its end:
        that nobody counted is not that nothing was served.
        """
        with self._open() as file:
            _refuse_uncounted(file, start.timestamp(), end.timestamp())
            return _read(file, servers, start, end)

    def minutes(self, servers: Sequence[str], start: datetime, end: datetime) -> list[Served]:
        """The same by whole minutes counted back from `end`, summed over the servers, oldest first, empty ones too.

        What was not counted is missing in them, and no error: a baseline is what is known.
        """
        last = int(end.timestamp())
        whole = int(end.timestamp() - start.timestamp()) // MINUTE_S
        given = [last - 1, last - whole * MINUTE_S, last, *servers]
        with self._open() as file:
            totals = {back: (n, errors) for back, n, errors in _rows(file, _BY_MINUTE, servers, given)}
            buckets: dict[int, dict[int, int]] = defaultdict(dict)
            for back, bucket, count in _rows(file, _BUCKETS_BY_MINUTE, servers, given):
                buckets[back][int(bucket)] = count
        return [
            Served(last - MINUTE_S * (back + 1), "", *totals.get(back, (0, 0)), _whole(buckets.get(back, {})))
            for back in range(whole - 1, -1, -1)
        ]

    def minutes_back(self, servers: Sequence[str], start: datetime, end: datetime) -> Iterator[Served]:
        """The same minutes, newest first, read an hour at a time: whoever has enough reads no further."""
        while end > start:
            yield from reversed(self.minutes(servers, max(start, end - _AT_ONCE), end))
            end -= _AT_ONCE

    def totals(self, servers: Sequence[str], start: datetime, end: datetime) -> tuple[int, int]:
        """The requests of those servers from `start` to before `end`, and how many of them were errors.

        What was not counted is missing in them, and no error.
        """
        with self._open() as file:
            [(n, errors)] = _rows(file, _TOTALS, servers, [start.timestamp(), end.timestamp(), *servers])
        return n, errors

    def check(self) -> str:
        """One sentence: since when it counts, how much, and how many lines it could not read."""
        with self._open() as file:
            n, since = file.execute("select coalesce(sum(n), 0), min(at) from served").fetchone()
            (garbled,) = file.execute("select garbled from counter").fetchone()
        began = f"since {_said(since)}" if since else "yet"
        return f"the counter answers: {n} requests counted {began}, {garbled} lines that it could not read."

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        if not Path(self.file).exists():
            raise Unreachable(f"there is no counter at {self.file}: start python -m blocks.counting --file {self.file}")
        try:
            with closing(sqlite3.connect(f"file:{quote(self.file)}?mode=ro", uri=True, timeout=5)) as file:
                _refuse_silence(file)
                yield file
        except sqlite3.Error as error:
            raise Unreachable(f"the counter's file {self.file} cannot be read: {error}") from None


def _refuse_silence(file: sqlite3.Connection) -> None:
    beat = file.execute("select beat from counter").fetchone()
    if beat is None or time.time() - beat[0] > SILENT_S:
        since = _said(beat[0]) if beat else "its start"
        raise Unreachable(f"the counter has been silent since {since}: is its process alive?")


def _refuse_uncounted(file: sqlite3.Connection, start: float, end: float) -> None:
    """Lives of the counter must cover the time, gaps of a restart aside."""
    reached = start
    for began, beat in file.execute("select began, beat from life where beat > ? order by began", [start]):
        if began > min(reached + RESTART_S, end):
            break
        reached = max(reached, beat)
    if reached < end:
        raise Unreachable(
            f"nothing was counted from {_said(reached)} to {_said(end)}: the counter was away, or is late"
        )


def _read(file: sqlite3.Connection, servers: Sequence[str], start: datetime, end: datetime) -> list[Served]:
    given = [start.timestamp(), end.timestamp(), *servers]
    rows = _rows(file, _BY_SECOND, servers, given)
    return [Served(at, server, n, errors, _whole(json.loads(hist))) for at, server, n, errors, hist in rows]


def _rows(file: sqlite3.Connection, question: str, servers: Sequence[str], given: Sequence[object]) -> Iterable[Any]:
    return file.execute(question.format(servers=",".join("?" * len(servers))), given)


def _whole(sparse: Mapping[Any, int]) -> tuple[int, ...]:
    counts = [0] * BUCKETS
    for bucket, count in sparse.items():
        counts[int(bucket)] = count
    return tuple(counts)


def _said(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
