"""What the ledger refuses, and what its silence means.

Refused
├── Busy      another operation holds what this one needs: come back when it is settled
├── Fenced    somebody else has taken this operation over: touch nothing more, not even to undo
└── Stopped   a person or a failover asked this operation to stop: it undoes itself
Unreachable
└── Unheard   the ledger does not answer: touch nothing more, reconcile takes the operation over
"""

from datetime import datetime

from blocks.errors import Refused, Unreachable


class Busy(Refused):
    """Another operation holds what this one needs."""

    def __init__(self, message: str, *, holder: str = "", kind: str = "", since: datetime | None = None) -> None:
        super().__init__(message)
        self.holder, self.kind, self.since = holder, kind, since


class Fenced(Refused):
    """Somebody else has taken this operation over: touch nothing more."""


class Stopped(Refused):
    """Somebody asked this operation to stop before its commit."""


class Unheard(Unreachable):
    """The ledger does not answer, so nobody knows who holds the operation: touch nothing more."""
