"""What was served, by server and second: counted from HAProxy's log lines, so that a baseline exists between bakes.

    python -m blocks.counting --port 5514 --file counter.sqlite

A request counts in the second in which it ended (`%Ts` + `%Tt`), for the server that HAProxy names, or for "-" where
it names none (`<NOSRV>`): the reader says which release that accuses, as a dead one gives nothing else. It is an error
when its status is 500 or above, and when the answer broke off or never came (`term` begins with S, s, D or K). What
HAProxy answered itself and was no error is no request: the 400 that a scanner gets is no good answer of anybody's. A
client's abort (C or c) is none either: HAProxy writes the server's status beside it, whatever the client saw.

A line that is no JSON is a notice of HAProxy's and passes; one that is JSON of another shape is counted as garbled.
The file is SQLite (WAL), committed once a second: a kill loses the last second. Each life of this process is a row,
from its begin to its last commit, so that readers know what nobody counted.
`blocks.counter` reads it. No Prefect here: this process is small, and lives as long as the balancer.
"""

import argparse
import json
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from blocks.histogram import bucket_of

PROXY = "-"  # errors that no server gave
KEPT_S = 8 * 24 * 3600
COMMIT_S = 1.0
MINUTE_S = 60
FAILED = 500
BROKEN = "SsDK"  # of %tsc: ended by the server, by its time-out, or with it
_DAY_S = 24 * 3600
_TABLES = """
create table if not exists served (
  at integer not null, server text not null, n integer not null, errors integer not null, hist text not null,
  primary key (at, server)
) without rowid;
create index if not exists served_in_short on served (server, at, n, errors); -- a sum reads no histogram
create table if not exists counter (
  one integer primary key check (one = 1), beat real not null, garbled integer not null
);
create table if not exists life (began real primary key, beat real not null);
"""
_ADD = """insert into served (at, server, n, errors, hist) values (?, ?, ?, ?, ?)
  on conflict (at, server) do update set n = excluded.n, errors = excluded.errors, hist = excluded.hist"""
_BEAT = """insert into counter (one, beat, garbled) values (1, ?, ?)
  on conflict (one) do update set beat = excluded.beat, garbled = counter.garbled + excluded.garbled"""
_LIVES = """insert into life (began, beat) values (?, ?)
  on conflict (began) do update set beat = excluded.beat"""
_KNOWN = "select n, errors, hist from served where at = ? and server = ?"


class Counting:
    """The counts of the seconds that are not over, and the file they go to."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(file, isolation_level=None)
        self._file.execute("pragma journal_mode = wal")
        self._file.execute("pragma synchronous = normal")  # a kill loses nothing by it, a power cut a second or two
        self._file.executescript(_TABLES)
        self._open: dict[tuple[int, str], tuple[list[int], dict[int, int]]] = {}
        self._garbled, self._began = 0, time.time()

    def line(self, text: bytes) -> None:
        """One datagram of HAProxy's."""
        brace = text.find(b"{")
        if brace < 0:
            return
        try:
            row = json.loads(text[brace:])
            ended, server, term = int(float(row["t"]) + row["tt"] / 1000), str(row["s"]), str(row["term"])
            failed, seconds = int(row["st"]) >= FAILED or term[:1] in BROKEN, float(row["ta"]) / 1000
        except (ValueError, KeyError, TypeError, OverflowError):
            self._garbled += 1
            return
        nobodys = server.startswith("<")
        if abs(ended - time.time()) > _DAY_S:
            self._garbled += 1
        elif term[:1] not in {"C", "c"} and (failed or not nobodys):
            self._count((ended, PROXY if nobodys else server), seconds, failed=failed)

    def commit(self, now: float) -> None:
        """Write what was counted, and that the counter lives; forget what is past its retention."""
        self._file.execute("begin immediate")
        for (at, server), ((n, errors), hist) in self._open.items():
            self._file.execute(_ADD, [at, server, n, errors, json.dumps(hist)])
        self._file.execute(_BEAT, [now, self._garbled])
        self._file.execute(_LIVES, [self._began, now])
        self._file.execute("delete from served where at < ?", [now - KEPT_S])
        self._file.execute("delete from life where beat < ?", [now - KEPT_S])
        self._file.execute("commit")
        self._garbled = 0
        self._open = {key: counts for key, counts in self._open.items() if key[0] >= now - MINUTE_S}

    def close(self) -> None:
        """Leave the file whole."""
        self._file.close()

    def _count(self, key: tuple[int, str], seconds: float, *, failed: bool) -> None:
        if key not in self._open:
            self._open[key] = self._known(key)
        counts, hist = self._open[key]
        counts[0] += 1
        counts[1] += failed
        bucket = bucket_of(max(seconds, 0.0))
        hist[bucket] = hist.get(bucket, 0) + 1

    def _known(self, key: tuple[int, str]) -> tuple[list[int], dict[int, int]]:
        """What an earlier process wrote of that second."""
        row = self._file.execute(_KNOWN, key).fetchone()
        return ([row[0], row[1]], {int(b): n for b, n in json.loads(row[2]).items()}) if row else ([0, 0], {})


def main() -> None:
    """Count until SIGTERM."""
    parser = argparse.ArgumentParser(description="Counts what HAProxy's JSON log says, by server and second.")
    parser.add_argument("--port", type=int, required=True, help="the UDP port on loopback that HAProxy logs to")
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args()
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda _sign, _frame: over.set())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lines, closing(Counting(options.file)) as counting:
        lines.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        lines.bind(("127.0.0.1", options.port))
        lines.settimeout(COMMIT_S / 4)
        due = 0.0
        while not over.is_set():
            if time.monotonic() >= due:
                counting.commit(time.time())
                due = time.monotonic() + COMMIT_S
            try:
                counting.line(lines.recv(2048))
            except TimeoutError:
                continue
        counting.commit(time.time())


if __name__ == "__main__":
    main()
