"""The position that a deploy's migrations set: the schema has all that a commit brings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import JsonValue

from flows.deploy.asking import is_pending, migrate_up
from flows.ledger import Back, Setting, still

if TYPE_CHECKING:
    from flows.world import World


@dataclass(frozen=True)
class Migrated(Setting):
    """Whether the database has all migrations of a commit. Those that ran stay: a way down is a person's decision."""

    back: ClassVar[Back] = "nothing"
    commit: str

    def read(self, world: "World") -> JsonValue:
        """Asked of the commit's own status command."""
        return not is_pending(world, self.commit)

    def write(self, world: "World", want: JsonValue) -> None:
        """Run them."""
        still()
        migrate_up(world, self.commit)
