"""The one position that a backup sets in the world: its signed manifest, there or not. Written once, never changed."""

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import JsonValue

from blocks.errors import Missing, Refused
from flows.catalogue.layout import MANIFEST, signature_of
from flows.ledger import Back, Setting

if TYPE_CHECKING:
    from flows.world import World


@dataclass(frozen=True)
class SignedManifest(Setting):
    """The manifest in a backup's folder, as the sha256 of its stored bytes; None: there is none.

    The signature goes first and the manifest last, with a condition that the store keeps: a second one never replaces it.
    """

    back: ClassVar[Back] = "never"
    folder: str
    text: str
    signature: str

    def read(self, world: "World") -> JsonValue:
        """The sha256 of the manifest that is there."""
        try:
            return hashlib.sha256(world.store.objects().get(self.folder + MANIFEST)).hexdigest()
        except Missing:
            return None

    def write(self, world: "World", want: JsonValue) -> None:
        """Put the signature, then the manifest; a manifest that is there already is compared by `ensure`."""
        objects = world.store.objects()
        objects.put(self.folder + signature_of(MANIFEST), base64.b64decode(self.signature))
        try:
            objects.put(self.folder + MANIFEST, self.text.encode(), only_if_absent=True)
        except Refused:
            if self.read(world) != want:
                raise
