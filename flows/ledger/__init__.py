"""The ledger: each change of the world is an operation, done once, to its end or back, by one process at a time.

`docs/architecture.md` has the protocol. Users need the names below; the rest of the package is its own affair.
"""

from flows.ledger.book import Entry, Ledger, carry_out_alone
from flows.ledger.errors import Busy, Fenced, Stopped, Unheard
from flows.ledger.hands import Settled
from flows.ledger.operation import Operation, application_name, still
from flows.ledger.setting import Back, Setting
from flows.ledger.steps import Steps, steps

__all__ = [
    "Back",
    "Busy",
    "Entry",
    "Fenced",
    "Ledger",
    "Operation",
    "Setting",
    "Settled",
    "Steps",
    "Stopped",
    "Unheard",
    "application_name",
    "carry_out_alone",
    "steps",
    "still",
]
