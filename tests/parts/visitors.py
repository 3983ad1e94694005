"""Visitors who ask one after the other and write down every answer, in a process of their own: no flow slows them.

    python -m tests.parts.visitors PORT FILE CLIENTS PAUSE_S

They take turns at GET and POST, each on a connection of its own; now and then one asks for a slow answer, so that
something is in flight when a release is drained. Every POST carries a number of its own.
"""

import http.client
import signal
import sys
import threading
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from deployments.local.running import Running

PATIENCE_S = 30
SLOW_EVERY, SLOW_S = 10, 0.2


@dataclass(frozen=True)
class Answer:
    """What a visitor was told; status 0: nothing. Times are seconds since 1970."""

    began: float
    ended: float
    method: str
    status: int
    release: str  # the commit that answered; "-" where none did
    number: str


def ask(port: int, method: str, number: str, *, slow: bool = False) -> Answer:
    """One request."""
    began, status, release = time.time(), 0, "-"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        path = f"/watch?s={SLOW_S}" if slow else "/watch"
        connection.request(method, path, body=number.encode() if method == "POST" else None)
        response = connection.getresponse()
        response.read()
        status, release = response.status, response.headers.get("x-release", "-")
    except (OSError, http.client.HTTPException):
        pass  # status 0 says so
    finally:
        connection.close()
    return Answer(began, time.time(), method, status, release, number)


@dataclass(frozen=True)
class Visitors:
    """Those that write to `file`."""

    file: Path

    def answers(self, since: float = 0) -> list[Answer]:
        """Whole lines, of requests that began since then."""
        rows = [line.split() for line in self.file.read_text().split("\n")[:-1]]
        found = (Answer(float(a), float(b), method, int(status), *rest) for a, b, method, status, *rest in rows)
        return [answer for answer in found if answer.began >= since]

    def failed(self, bad: Collection[str], since: float = 0) -> list[Answer]:
        """What no release of those that are bad on purpose answered with its 500."""
        wrong = (answer for answer in self.answers(since) if answer.status != 200)
        return [answer for answer in wrong if answer.status != 500 or answer.release not in bad]


@contextmanager
def visiting(port: int, folder: Path, clients: int, pause_s: float) -> Generator[Visitors]:
    """With visitors until the block ends."""
    name = f"visitors-{time.monotonic_ns()}"
    made, process = Visitors(folder / f"{name}.txt"), Running(folder, name)
    words = ["-m", "tests.parts.visitors", str(port), str(made.file), str(clients), str(pause_s)]
    process.start([sys.executable, *words], {})
    process.await_ready(lambda: made.file.exists() and bool(made.answers()), 20, "the visitors")
    try:
        yield made
    finally:
        process.stop()


def _visit(port: int, file: TextIO, name: str, pause_s: float, over: threading.Event) -> None:
    count = 0
    while not over.wait(pause_s):
        count += 1
        method = "POST" if count % 2 else "GET"
        told = ask(port, method, f"{name}-{count}", slow=count % SLOW_EVERY == 0)
        text = f"{told.began:.6f} {told.ended:.6f} {told.method} {told.status} {told.release} {told.number}\n"
        file.write(text)


def main(port: int, file: Path, clients: int, pause_s: float) -> None:
    """Until SIGTERM; whoever has asked waits for the answer."""
    over, began = threading.Event(), time.monotonic_ns()
    signal.signal(signal.SIGTERM, lambda _sign, _frame: over.set())
    with file.open("a", buffering=1) as lines:
        threads = [
            threading.Thread(target=_visit, args=(port, lines, f"{began}-{number}", pause_s, over))
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
