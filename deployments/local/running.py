"""Processes of the local stage that outlive the command which started them: started, found again, ended.

What is known of one lies in a file: pid and start time, so that a reused pid is never taken for it. It supervises
nothing: a process that died stays dead until the next `up`.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.errors import Unreachable

CHILDREN: list["subprocess.Popen[bytes]"] = []  # kept, as they are to outlive who started them
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Running:
    """A process of ours: `folder` holds NAME.json (pid, start time) and NAME.log (its output)."""

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"

    def start(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start it in a session of its own, with SIGINT as it is by default (a Prefect worker ends by it)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,
                preexec_fn=_restore_interrupt,  # noqa: PLW1509 - one system call, no lock is taken
            )
        CHILDREN.append(process)
        self._paper.write_text(json.dumps({"pid": process.pid, "started": _start_time(process.pid)}))

    def alive(self) -> bool:
        """Whether the process that we started still lives."""
        known = self._known()
        return known is not None and known[1] != "" and _start_time(known[0]) == known[1]

    def await_ready(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until `ready` says so; Unreachable when the process dies or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if ready():
                return
            if not self.alive():
                raise Unreachable(f"{what} ended while it was starting: {self.last_words()}")
            time.sleep(LOOK_SECONDS)  # readiness is asked for: neither an HTTP server nor Postgres announces it
        raise Unreachable(f"{what} was not ready after {seconds:.0f} s: {self.last_words()}")

    def stop(self) -> None:
        """End it and its session: SIGTERM, SIGKILL after 15 s; nothing happens when it is gone."""
        if known := self._known():
            if self.alive():
                _end(known[0])
            _reap(known[0])
            self._paper.unlink(missing_ok=True)

    def last_words(self, lines: int = 3) -> str:
        """The last lines of its output."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " / ".join(text.strip().splitlines()[-lines:]) or "it said nothing"

    @property
    def _paper(self) -> Path:
        return self.folder / f"{self.name}.json"

    def _known(self) -> tuple[int, str] | None:
        if not self._paper.exists():
            return None
        paper = json.loads(self._paper.read_text())
        return paper["pid"], paper["started"]


def _restore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _start_time(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text[text.rindex(")") + 2 :].split()
    return "" if fields[0] == "Z" else fields[19]


def _end(pid: int) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            break
        try:
            signal.pidfd_send_signal(handle, sign)
            ended, _, _ = select.select([handle], [], [], STOP_SECONDS)
        except ProcessLookupError:
            ended = [handle]
        finally:
            os.close(handle)
        if ended:
            break
    _end_session(pid)


def _reap(pid: int) -> None:
    """Wait for it where this process started it: it stays a zombie until then."""
    for child in [each for each in CHILDREN if each.pid == pid]:
        child.wait()
        CHILDREN.remove(child)


def _end_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
