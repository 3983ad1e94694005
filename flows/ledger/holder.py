"""Who holds an operation: a process named so exactly that nobody else can be taken for it; and how to end it.

A holder is `boot id:pid namespace:pid:start time:random`. The random part begins with `x` when the process is
expendable (a flow run's own): only such a one is ever killed, and only from its own host and namespace.
"""

import os
import secrets
import select
import signal
from pathlib import Path

KILL_PATIENCE_S = 2.0


def me(*, expendable: bool | None = None) -> str:
    """A new name for this process as a holder; each operation gets its own."""
    if expendable is None:
        expendable = "PREFECT__FLOW_RUN_ID" in os.environ  # a process that a worker started for one run
    mark = "x" if expendable else "-"
    return ":".join((_boot(), _namespace(), str(os.getpid()), _started(os.getpid()), mark + secrets.token_hex(4)))


def end(holder: str) -> bool:
    """Kill that holder's process if it is expendable, on this host and not this one; whether it is gone now.

    SIGKILL ends a stopped process too, so that it cannot wake up and send one late command.
    """
    boot, namespace, pid, started, mark = holder.split(":")
    if not mark.startswith("x") or (boot, namespace) != (_boot(), _namespace()) or int(pid) == os.getpid():
        return False
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    try:
        if _started(int(pid)) != started:  # looked at after the handle was taken: it means this very process
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return bool(select.select([handle], [], [], KILL_PATIENCE_S)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:[").removesuffix("]")


def _started(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return "gone"
    return fields[19]  # field 22, counted from the one after the command's name; proc_pid_stat(5)
