"""Processes that die or stop in the middle of an operation: forked, as an import costs more than the whole run."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from blocks.postgres.address import Address
from flows.ledger import Ledger

EXPIRE = """update ledger.operation set lease_s = 0.1, expires_at = clock_timestamp() - interval '1 s'
    where ended_at is null"""
DIED = -signal.SIGKILL


@dataclass(frozen=True)
class Fork:
    """A child of this process."""

    pid: int

    def ended(self) -> int:
        """Wait for its end: 0 it went well, 3 it raised, DIED."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def stopped(self) -> bool:
        """Wait until it stopped (or ended: False)."""
        return os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def wake(self) -> int:
        """Let it go on, as often as it stops, and wait for its end."""
        while True:
            os.kill(self.pid, signal.SIGCONT)
            status = os.waitpid(self.pid, os.WUNTRACED)[1]
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)


def fork(act: Callable[[], object], point: str = "", fault: str = "kill") -> Fork:
    """Run `act` in a child that meets `fault` at `point`."""
    pid = os.fork()
    if pid:
        return Fork(pid)
    os.environ |= {"FAULT_AT": point, "FAULT": fault}
    code = 3
    try:
        act()
        code = 0
    finally:
        os._exit(code)


def expire(address: Address) -> None:
    """All open leases ran out a second ago: by one statement instead of waiting."""
    with closing(address.connect()) as connection:
        connection.execute(EXPIRE)


def reconcile(ledger: Ledger, limit_s: float = 20.0) -> list[str]:
    """Passes until nothing is open; what they said."""
    said: list[str] = []
    end = time.monotonic() + limit_s
    while ledger.open():
        assert time.monotonic() < end, f"still open: {[str(entry) for entry in ledger.open()]}; {said}"
        said += ledger.tick_once()
        time.sleep(0.02)
    return said + ledger.tick_once()
