"""Holding on: a thread renews the lease, and `still` says before every command whether we are still the holder.

Time is counted from before a statement was sent, on CLOCK_BOOTTIME, which also counts a suspended host: so this process
never believes in a lease longer than the ledger does. A late renewal is good while the token is ours.
"""

import threading
import time
from collections.abc import Callable

from blocks.errors import BlockError
from flows.ledger.errors import Fenced
from flows.ledger.line import Line

RENEWALS_A_LEASE = 6
STALE = 0.8  # of a lease without a good renewal: ask before doing anything


def boottime() -> float:
    """Seconds since the boot, a suspended host's too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The lease of one operation, renewed by its own thread over its own connection until `release`."""

    def __init__(self, line: Line, lease_s: float, sent_at: float) -> None:
        self._line, self._lease_s = line, lease_s
        self._good_at = sent_at
        self._renew: Callable[[Line], str | None] | None = None
        self._over = threading.Event()
        self.lost = False
        self.stop_asked: str | None = None

    def hold(self, renew: Callable[[Line], str | None]) -> None:
        """Start renewing with this statement, which raises Fenced when the token is not ours any more."""
        self._renew = renew
        threading.Thread(target=self._keep, name="ledger-lease", daemon=True).start()

    def still(self, line: Line) -> None:
        """Raises Fenced when it was lost; when it is stale, asks over `line` first: Unheard without an answer."""
        if not self.lost and boottime() - self._good_at > STALE * self._lease_s:
            self.renew(line)
        if self.lost:
            raise Fenced("another process has taken this operation over: nothing more is touched here")

    def renew(self, line: Line) -> None:
        """Once, now."""
        if self._renew is None:
            return
        sent_at = boottime()
        try:
            self.stop_asked = self._renew(line)
        except Fenced:
            self.lose()
            raise
        self._good_at = max(self._good_at, sent_at)

    def lose(self) -> None:
        """Somebody else holds it."""
        self.lost = True
        self._over.set()

    def release(self) -> None:
        """Stop renewing: it is settled, or let go."""
        self._over.set()

    def _keep(self) -> None:
        while not self._over.wait(self._lease_s / RENEWALS_A_LEASE):
            try:
                self.renew(self._line)
            except Fenced:
                break
            except BlockError:  # asked again at the next beat; `still` judges how old the last good answer is
                continue
        self._line.close()
