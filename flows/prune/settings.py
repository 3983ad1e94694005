"""The positions that a prune sets: a backup's papers gone, its objects gone, an unfinished upload gone. All one way."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import JsonValue

from blocks.storage.objects import Objects
from flows.catalogue.layout import MANIFEST, home_of, signature_of
from flows.ledger import Back, Setting, still

if TYPE_CHECKING:
    from flows.world import World


@dataclass(frozen=True)
class InFolder(Setting):
    """A setting of one backup's folder; what lies there and is not of our layout is as if it were not there."""

    back: ClassVar[Back] = "never"
    backup: str

    def objects(self, world: "World") -> Objects:
        """The store, with the rights to delete."""
        return world.pruning.objects()

    def keys(self, world: "World") -> list[str]:
        """What lies in the folder and is the backup's own."""
        home = home_of(world.stage)
        keys = (entry.key for entry in self.objects(world).list(home.of(self.backup)))
        return [key for key in keys if home.owner(key) == self.backup]


@dataclass(frozen=True)
class Papers(InFolder):
    """Whether a backup has a manifest: without one nobody believes it, lists it or restores it."""

    def read(self, world: "World") -> JsonValue:
        """Whether manifest or signature are there."""
        return any(key.endswith((MANIFEST, signature_of(MANIFEST))) for key in self.keys(world))

    def write(self, world: "World", want: JsonValue) -> None:
        """Delete the manifest first, then its signature."""
        folder = home_of(world.stage).of(self.backup)
        for name in (MANIFEST, signature_of(MANIFEST)):
            still()
            self.objects(world).delete([folder + name])


@dataclass(frozen=True)
class Contents(InFolder):
    """How many objects a backup's folder holds: data first to go, proofs last."""

    def read(self, world: "World") -> JsonValue:
        """The number of keys."""
        return len(self.keys(world))

    def write(self, world: "World", want: JsonValue) -> None:
        """Delete all of them."""
        keys = sorted(self.keys(world), key=lambda key: key.rpartition("/")[2].startswith("proof-"))
        still()
        self.objects(world).delete(keys)


@dataclass(frozen=True)
class OpenUpload(Setting):
    """Whether an upload that nobody finishes is still open, paid for and invisible."""

    back: ClassVar[Back] = "never"
    key: str
    id: str

    def read(self, world: "World") -> JsonValue:
        """Whether it is there."""
        return any((u.key, u.id) == (self.key, self.id) for u in world.pruning.objects().uploads(self.key))

    def write(self, world: "World", want: JsonValue) -> None:
        """Abort it."""
        objects = world.pruning.objects()
        for upload in objects.uploads(self.key):
            if upload.id == self.id:
                still()
                objects.abort(upload)
