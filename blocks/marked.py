"""Processes of this user that carry a mark, one variable of their environment: found in /proc, told to end, awaited.

A child inherits the mark, so that all of a program's processes are found; one that ended has none.
"""

import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress


def marked(name: str) -> Iterator[tuple[int, str]]:
    """Pid and mark of each, oldest first (as long as pids do not begin anew)."""
    for pid in sorted(int(each) for each in os.listdir("/proc") if each.isdecimal()):  # noqa: PTH208 - a third of the CPU
        if mark := _mark_of(pid, name):
            yield pid, mark


def end(pids: Collection[int], sign: signal.Signals, patience_s: float, *, carrying: str) -> None:
    """Tell all of them to end, then wait for them together; those that ended meanwhile are no error."""
    deadline = time.monotonic() + patience_s
    with ExitStack() as opened:
        handles = [handle for pid in pids if (handle := _handle(pid, carrying, opened)) is not None]
        for handle in handles:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, sign)
        for handle in handles:
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            waiting.poll(max(deadline - time.monotonic(), 0) * 1000)


def _handle(pid: int, carrying: str, opened: ExitStack) -> int | None:
    """A handle that no other process can inherit: the mark is read once it is held, as the pid may be another's now."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        opened.callback(os.close, handle)
        return handle if _mark_of(pid, carrying) else None
    return None


def _mark_of(pid: int, name: str) -> str:
    """Nothing for another user's process, one that ended, and one without."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():  # noqa: PTH116 - as above
            return ""
        with open(f"/proc/{pid}/environ", "rb") as environ:  # noqa: PTH123 - as above; root owns that of who became another
            variables = b"\0" + environ.read()
    except OSError:
        return ""
    mark = variables.partition(f"\0{name}=".encode())[2]
    return mark.partition(b"\0")[0].decode(errors="replace")
