"""A worker process of a dump, a load or a comparison: orders on the first line of its pipe, then a job a line.

It imports no Prefect and holds no policy. Its pipe is its life: when that closes without a goodbye, its parent died, so
it ends the tools that it started, lets its upload be aborted, and leaves. Nothing but answers goes to its output.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from blocks.errors import BlockError
from blocks.postgres import compare_jobs, dump_jobs, load_jobs
from blocks.postgres.desk import Desk, StoreSilent

LEFT_ALONE = 3
LEAVE_S = 5.0


def open_store(desk: Desk) -> dict[str, Any]:
    """Have everything imported and the store's client made; asks it nothing."""
    return {"store": type(desk.objects).__name__}


JOBS: Mapping[str, Callable[..., dict[str, Any]]] = {
    **dump_jobs.JOBS,
    **load_jobs.JOBS,
    **compare_jobs.JOBS,
    "open_store": open_store,
}


def main() -> int:
    """Work until told to leave (0) or left alone."""
    voice = _Voice()
    ear = sys.stdin.buffer
    desk = Desk(json.loads(ear.readline()), moved=lambda size: voice.say({"moved": size}))
    heard: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(ear, heard, desk), name="ear", daemon=True).start()
    while True:
        job = heard.get()
        if not isinstance(job, dict):
            return 0 if job is None else LEFT_ALONE
        voice.say(_done(desk, job))  # pyright: ignore[reportUnknownArgumentType] - a line of our own parent


def _done(desk: Desk, job: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": JOBS[job["what"]](desk, **job["arguments"])}
    except BlockError as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == BlockError.__module__)
        return {"failed": kind, "sentence": str(error), "again": isinstance(error, StoreSilent)}
    finally:
        desk.end_tools()


def _listen(ear: Any, heard: "SimpleQueue[Any]", desk: Desk) -> None:
    for line in ear:
        job = json.loads(line)
        heard.put(job)
        if job is None:
            return
    desk.leave()
    heard.put("alone")
    threading.Event().wait(LEAVE_S)
    os._exit(LEFT_ALONE)  # whatever hangs (a store, a lock) ends with the process


class _Voice:
    """The pipe to the parent: a copy of standard output, which itself is turned away from it."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._one_at_a_time = threading.Lock()

    def say(self, value: Mapping[str, Any]) -> None:
        with self._one_at_a_time, suppress(BrokenPipeError):  # the ear notices, and ends this process
            self._pipe.write(json.dumps(value).encode() + b"\n")
            self._pipe.flush()


if __name__ == "__main__":
    sys.exit(main())
