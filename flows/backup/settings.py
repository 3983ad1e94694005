"""The one position that a backup sets in the world: its signed manifest, there or not. Written once, never changed."""

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import JsonValue, ValidationError

from blocks.errors import Missing, Refused
from flows.catalogue.layout import MANIFEST, signature_of
from flows.catalogue.manifest import Manifest
from flows.ledger import Back, Setting

if TYPE_CHECKING:
    from flows.world import World


@dataclass(frozen=True)
class SignedManifest(Setting):
    """The manifest in a backup's folder, by its fingerprint; None: there is none.

    The signature goes first and the manifest last, with a condition that the store keeps: a second never replaces it.
    """

    back: ClassVar[Back] = "never"
    folder: str
    text: str
    signature: str

    def read(self, world: "World") -> JsonValue:
        """The fingerprint of the manifest that is there; one that is not rightly signed is as good as none."""
        objects = world.store.objects()
        try:
            there, signature = (objects.get(self.folder + name) for name in (MANIFEST, signature_of(MANIFEST)))
        except Missing:
            return None
        try:
            world.keys.verify(there, signature)
        except Refused:
            return None
        return fingerprint(there)

    def write(self, world: "World", want: JsonValue) -> None:
        """Put the signature, then the manifest; one that is there already must be this one, and is signed as it is."""
        objects, signature = world.store.objects(), self.folder + signature_of(MANIFEST)
        labels = Manifest.model_validate_json(self.text).labels
        objects.put(signature, base64.b64decode(self.signature), metadata=labels)
        try:
            objects.put(self.folder + MANIFEST, self.text.encode(), only_if_absent=True, metadata=labels)
        except Refused as refused:  # for what is there already, or for want of a right
            try:
                there = objects.get(self.folder + MANIFEST)
            except Missing:
                raise refused from None
            if fingerprint(there) != want:
                raise
            objects.put(signature, world.keys.sign(there), metadata=labels)


def fingerprint(manifest: bytes) -> str:
    """The sha256 of a manifest but for its operation: committed with a ledger or without, it is the same backup."""
    try:
        text = Manifest.model_validate_json(manifest).model_copy(update={"operation": None}).text()
    except ValidationError:
        text = manifest
    return hashlib.sha256(text).hexdigest()
