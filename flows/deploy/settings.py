"""The position that a deploy's migrations set: the schema has all that a commit brings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import JsonValue

from flows.deploy import tasks
from flows.ledger import Back, Setting, still

if TYPE_CHECKING:
    from flows.world import World


@dataclass(frozen=True)
class Migrated(Setting):
    """Whether the database has all migrations of a commit. One way: a way down is a person's decision."""

    back: ClassVar[Back] = "never"
    commit: str

    def read(self, world: "World") -> JsonValue:
        """Asked of the commit's own status command."""
        return not tasks.is_pending(world, self.commit)

    def write(self, world: "World", want: JsonValue) -> None:
        """Run them."""
        still()
        tasks.migrate_up(world, self.commit)
