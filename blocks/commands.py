"""A declared command run in a folder: no shell, a time-out that ends all its processes, an exit code, last words."""

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blocks.errors import Missing

LAST_BYTES = 8192  # of its output are kept
TIMED_OUT = -1


@dataclass(frozen=True)
class Done:
    """How a command ended; `code` -1: it was ended at its time-out. `output` is the end of what it printed."""

    command: str
    code: int
    seconds: float
    output: str

    @property
    def last_words(self) -> str:
        """Its last line."""
        return (self.output.strip().splitlines() or ["it said nothing"])[-1]


def run(command: str, folder: Path, *, limit_s: float, environment: Mapping[str, str]) -> Done:
    """Run it to its end. It sees the variables given and no others. Missing: no such program."""
    words, began = shlex.split(command), time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                words, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except (FileNotFoundError, PermissionError) as error:
            raise Missing(f"{command!r} cannot be run: {error.strerror}: install {words[0]}, or correct it") from None
        code = _waited(process, limit_s)
        output.seek(max(output.seek(0, os.SEEK_END) - LAST_BYTES, 0))
        text = output.read().decode(errors="replace")
    return Done(command, code, time.monotonic() - began, text)


def _waited(process: "subprocess.Popen[bytes]", limit_s: float) -> int:
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Also what it left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
