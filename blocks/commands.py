"""A declared command run in a folder: no shell, a time-out that ends all its processes, an exit code, last words.

It runs under a guard, a small process of its own that ends the command when its time is over, and when whoever asked
for it is gone: a command never outlives the run that would look at its exit code. What it is to do, secrets too,
reaches the guard on its standard input, never on a command line.
"""

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from blocks.errors import Garbled, Missing

MOST_BYTES = 8_000_000  # of what it prints are read
LAST_LINES = 3  # of one that failed
LAST_BYTES = 64 * 1024  # in which its last line is looked for
TIMED_OUT = -1
NO_SUCH_PROGRAM = -2


@dataclass(frozen=True)
class Done:
    """How a command ended; `code` -1: it was ended at its time-out."""

    command: str
    code: int
    seconds: float
    last_words: str  # the last line of the stream, output or errors, that it used last; if it failed, the last three
    printed_bytes: int  # on its standard output
    text: str = field(repr=False)  # the first MOST_BYTES of that

    @property
    def output(self) -> str:
        """All that it printed on its standard output, and no warning of its standard error; Garbled: too much."""
        if self.printed_bytes > MOST_BYTES:
            found, most = (f"{size / 1e6:.1f} MB" for size in (self.printed_bytes, MOST_BYTES))
            raise Garbled(f"{self.command!r} printed {found}, more than the {most} that are read: let it print less")
        return self.text


def run(command: str, folder: Path, *, limit_s: float, environment: Mapping[str, str]) -> Done:
    """Run it to its end. It sees the variables given and no others. Missing: there is no such program."""
    words, began = shlex.split(command), time.monotonic()
    order = {"words": words, "folder": str(folder), "environment": dict(environment), "limit_s": limit_s}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        code = _guarded(order, output, errors)
        if code == NO_SUCH_PROGRAM:
            raise Missing(
                f"{command!r} cannot be run: there is no program {words[0]!r} here: install it, or correct it"
            )
        seconds, last = time.monotonic() - began, _last_words(output, errors, failed=code != 0)
        size = output.seek(0, os.SEEK_END)
        output.seek(0)
        return Done(command, code, seconds, last, size, output.read(MOST_BYTES).decode(errors="replace"))


def _guarded(order: Mapping[str, object], output: IO[bytes], errors: IO[bytes]) -> int:
    read, write = os.pipe()
    guard = subprocess.Popen(
        [sys.executable, "-S", "-m", "blocks.commands", str(write)],
        stdin=subprocess.PIPE, stdout=output, stderr=errors, pass_fds=[write], start_new_session=True,
        cwd=Path(__file__).parents[1], env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    os.close(write)
    try:
        with os.fdopen(read) as answer, guard:
            assert guard.stdin  # noqa: S101 - it was asked for
            guard.stdin.write(json.dumps(order).encode() + b"\n")
            guard.stdin.flush()
            said = answer.read()  # until the guard ends; its standard input stays open as long as this process lives
    except BaseException:
        guard.kill()
        raise
    if not said:
        raise Garbled("the guard of a command was ended before the command: run it again")
    return int(said)


def _last_words(output: IO[bytes], errors: IO[bytes], *, failed: bool) -> str:
    """Files remember when they were written last; in the same instant, who failed said why on its standard error."""

    def when(stream: IO[bytes]) -> tuple[int, bool]:
        return os.fstat(stream.fileno()).st_mtime_ns, (stream is errors) == failed

    streams = sorted((output, errors), key=when)
    lines = [[line.strip() for line in _end(stream).splitlines() if _says(line)] for stream in streams]
    said = next((each for each in reversed(lines) if each), ["it said nothing"])
    last = said[-LAST_LINES:] if failed else said[-1:]
    return " / ".join(last)


def _says(line: str) -> bool:
    """Not one that only points at the line above, or parts it from the next."""
    return bool(line.strip(" \t^-=~"))


def _end(stream: IO[bytes]) -> str:
    stream.seek(max(stream.seek(0, os.SEEK_END) - LAST_BYTES, 0))
    return stream.read().decode(errors="replace")


def _guard(answer: int) -> None:
    """The guard's own process: start the command in a session, wait for its end, the time's, or the asker's."""
    order = json.loads(sys.stdin.buffer.readline())
    try:
        process = subprocess.Popen(
            order["words"], cwd=order["folder"], env=order["environment"], stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except OSError:
        os.write(answer, str(NO_SUCH_PROGRAM).encode())
        return
    handle = os.pidfd_open(process.pid)
    ready, _, _ = select.select([handle, sys.stdin.buffer], [], [], order["limit_s"])
    code = process.wait() if handle in ready else TIMED_OUT
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also what it left behind
    os.write(answer, str(code).encode())


if __name__ == "__main__":
    _guard(int(sys.argv[1]))
