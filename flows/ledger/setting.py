"""A Setting: a position in the world that can be read and written, rebuilt in any process from its row in the journal.

Undo has no code of its own that was never tried: it is the same setting, put back to what was read before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import JsonValue, TypeAdapter
from pydantic_core import to_jsonable_python

from blocks.errors import Refused
from blocks.postgres.address import Address

Back = Literal["before", "nothing", "never"]
SETTINGS: dict[str, type["Setting"]] = {}


@dataclass(frozen=True)
class Setting:
    """Derive a frozen dataclass of JSON arguments; its class name is its name in the journal, so it stays for ever.

    `back`: "before" puts back what was read; "nothing" is left as it is (ended clients come back by themselves);
    "never" is one way, and the ledger refuses it before the commit. `write` must be absolute: twice is as good as once.
    """

    back: ClassVar[Back] = "before"

    def __init_subclass__(cls) -> None:
        """Registers the class, once a name."""
        known = SETTINGS.setdefault(cls.__name__, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"two settings are named {cls.__name__}, in {known.__module__} and {cls.__module__}")
        SETTINGS[cls.__name__] = cls

    def read(self, world: Any) -> JsonValue:
        """Where it stands now."""
        raise NotImplementedError

    def write(self, world: Any, want: JsonValue) -> None:
        """Put it there; asking again must be harmless. A loop of commands calls `flows.ledger.still()` before each."""
        raise NotImplementedError

    def agrees(self, found: JsonValue, want: JsonValue) -> bool:
        """Whether what was read is what was wanted."""
        return found == want

    def servers(self, world: Any) -> Sequence[Address]:
        """The Postgres servers that `write` enters as `application_name()`: there a taker ends older connections."""
        del world  # not needed by default
        return ()

    @property
    def name(self) -> str:
        """Its name in the journal."""
        return type(self).__name__

    @property
    def arguments(self) -> dict[str, Any]:
        """What the journal needs to build it again."""
        return dict(to_jsonable_python(self))


def rebuilt(name: str, arguments: JsonValue) -> Setting:
    """The setting of a journal row; Refused when this code does not know it."""
    if name not in SETTINGS:
        raise Refused(f"no setting named {name} is known here: run the release that recorded it, or import its module")
    return TypeAdapter(SETTINGS[name]).validate_python(arguments)
