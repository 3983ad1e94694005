"""Worker processes side by side: `python -m blocks.postgres.worker`, a JSON line a job in, lines of its result out.

The invariant: a run gives as many results as it was given jobs, and each worker ended with 0, or it raises. After an
exception no worker is left, nor anything that one started. What a worker must know, secrets too, goes over its pipe.
A worker whose parent died sees the pipe close, ends what it started, and leaves.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

from blocks.errors import BlockError, Garbled, Missing, Refused, Unreachable

KINDS: Mapping[str, type[BlockError]] = {kind.__name__: kind for kind in (Unreachable, Refused, Missing, Garbled)}
LEAVE_S = 15.0
_LOOK_EVERY_S = 1.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """One thing for a worker to do: `what` is one of worker.JOBS, `weight` decides the order (largest first)."""

    what: str
    arguments: Mapping[str, Any]
    weight: float = 0


@dataclass(frozen=True)
class Watch:
    """What the parent does: `look` first and every second (it raises to end the run), the rest as it happens."""

    look: Callable[[], None] = field(default=lambda: None)
    moved: Callable[[int], None] = field(default=lambda _: None)
    ended: Callable[[Job], None] = field(default=lambda _: None)


class Crew:
    """Workers with the same orders, alive while the block lasts."""

    def __init__(self, orders: Mapping[str, Any], workers: int) -> None:
        self._orders = orders
        self._count = max(workers, 1)
        self._workers: list[_Worker] = []
        self._said: SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = SimpleQueue()

    def __enter__(self) -> Self:
        self._workers = [_Worker(self._orders, self._said) for _ in range(self._count)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        codes = [worker.end(orderly=error is None) for worker in _told(self._workers, orderly=error is None)]
        if error is None and any(codes):
            raise Refused(
                f"a worker ended with {', '.join(map(str, codes))} after its last job: its results do not count"
            )

    def run(self, jobs: Sequence[Job], watch: Watch | None = None) -> list[dict[str, Any]]:
        """The results in the order of jobs. A job to which the store did not answer gets a second try."""
        return _Run(self._workers, self._said, jobs, watch or Watch()).results()


class _Run:
    def __init__(
        self,
        workers: Sequence["_Worker"],
        said: "SimpleQueue[tuple[_Worker, dict[str, Any] | None]]",
        jobs: Sequence[Job],
        watch: Watch,
    ) -> None:
        self._jobs, self._watch, self._said = jobs, watch, said
        order = sorted(range(len(jobs)), key=lambda number: -jobs[number].weight)
        self._waiting, self._idle = deque(order), list(workers)
        self._running: dict[_Worker, int] = {}
        self._again: set[int] = set()
        self._results: dict[int, dict[str, Any]] = {}
        self._looked = -_LOOK_EVERY_S

    def results(self) -> list[dict[str, Any]]:
        while self._waiting or self._running:
            self._hand_out()
            self._look()
            with suppress(Empty):
                self._hear(*self._said.get(timeout=_LOOK_EVERY_S))
        if len(self._results) != len(self._jobs):
            raise Refused(f"{len(self._jobs)} jobs gave {len(self._results)} results: nothing of it counts")
        return [self._results[number] for number in range(len(self._jobs))]

    def _hand_out(self) -> None:
        while self._idle and self._waiting:
            worker, number = self._idle.pop(), self._waiting.popleft()
            worker.give(self._jobs[number])
            self._running[worker] = number

    def _look(self) -> None:
        if time.monotonic() - self._looked >= _LOOK_EVERY_S:
            self._watch.look()
            self._looked = time.monotonic()

    def _hear(self, worker: "_Worker", said: dict[str, Any] | None) -> None:
        number = self._running.get(worker)
        if said is None or number is None:
            raise Unreachable(f"a worker process died ({worker.ending()}): what it did does not count")
        if "moved" in said:
            self._watch.moved(int(said["moved"]))
            return
        del self._running[worker]
        self._idle.append(worker)
        if "failed" in said:
            self._fail_or_try_again(number, said)
        else:
            self._results[number] = said["result"]
            self._watch.ended(self._jobs[number])

    def _fail_or_try_again(self, number: int, said: Mapping[str, Any]) -> None:
        error = KINDS[said["failed"]](said["sentence"])
        if not said["again"] or number in self._again:
            raise error
        self._watch.look()
        self._again.add(number)
        self._waiting.appendleft(number)


class _Worker:
    """One process, and a thread that reads what it says."""

    def __init__(self, orders: Mapping[str, Any], said: "SimpleQueue[tuple[_Worker, dict[str, Any] | None]]") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "blocks.postgres.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,  # what it starts ends with it, and no Ctrl-C reaches it but through us
        )
        _wake_for_much(self._process.pid)
        self._said = said
        self._listener = threading.Thread(target=self._listen, name="worker's voice", daemon=True)
        self._listener.start()
        self._write(orders)

    def give(self, job: Job) -> None:
        self._write({"what": job.what, "arguments": dict(job.arguments)})

    def ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            return f"exit code {self._process.wait(5)}"
        return "it said what nobody asked for"

    def tell_to_leave(self, *, orderly: bool) -> None:
        """An orderly end is said; a pipe that closes without it means: end what you started, and leave."""
        if orderly:
            self._write(None)
        with suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()

    def end(self, *, orderly: bool) -> int:
        try:
            code = self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        if code or not orderly:
            with suppress(ProcessLookupError):  # the whole session: psql waiting in a lock notices no closed pipe
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(LEAVE_S)
        return code

    def _write(self, value: Mapping[str, Any] | None) -> None:
        with suppress(BrokenPipeError):  # its death is heard on its voice
            if self._process.stdin:
                self._process.stdin.write(json.dumps(value).encode() + b"\n")
                self._process.stdin.flush()

    def _listen(self) -> None:
        if self._process.stdout:
            with self._process.stdout as voice:
                for line in voice:
                    self._said.put((self, json.loads(line)))
        self._said.put((self, None))


def _wake_for_much(pid: int) -> None:
    """A worker and its tools don't push the server off its core for each 8 KB that it sends (a tenth of the CPU)."""
    with suppress(OSError):  # a sandbox may forbid it: then they do, and lose only time
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))


def _told(workers: Sequence[_Worker], *, orderly: bool) -> Sequence[_Worker]:
    """Tell all before waiting for the first."""
    for worker in workers:
        worker.tell_to_leave(orderly=orderly)
    return workers
