"""What can go wrong with a system outside: the adapter says whether asking again can help, the caller how often.

BlockError
├── Unreachable   nothing answered, or the answer broke off: asking again may help
├── Refused       the answer is no: asking again changes nothing
├── Missing       what was named is not there
└── Garbled       an answer, or stored bytes, are not what they must be

Each message is one sentence: what was wanted, what was found, what to do next. It never holds a secret, nor a body of
somebody else's.
"""


class BlockError(Exception):
    """A system outside did not do what was asked."""


class Unreachable(BlockError):
    """Nothing answered, or the answer broke off: asking again may help."""


class Refused(BlockError):
    """The answer is no: asking again changes nothing."""


class Missing(BlockError):
    """What was named is not there."""


class Garbled(BlockError):
    """An answer, or stored bytes, are not what they must be."""
