"""Looks at the bucket: which backups there are, what their manifests and proofs say. Believes only what is signed.

The bucket is the truth and the ledger a cache of it, so everything here works with the bucket and the keys alone.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blocks.errors import BlockError, Garbled, Missing, Refused
from blocks.keys import BackupKeys
from blocks.postgres import databases
from blocks.storage.block import BackupStore
from blocks.storage.objects import Objects, Part
from blocks.stream import recipient_of
from flows.catalogue.accusations import accused, not_as_stored
from flows.catalogue.grades import Graded, graded
from flows.catalogue.layout import MANIFEST, Home, Seen, Shelf, home_of, signature_of, sort_keys
from flows.catalogue.manifest import Manifest, ManifestError, ProofPaper
from flows.catalogue.record import record_of
from flows.effect import NotDone, effect
from flows.records import Backup, Proof
from flows.stage import Stage
from flows.words import count, moment

if TYPE_CHECKING:
    from flows.world import World

READERS = 8  # small objects: the time is the store's answer, not the bytes


@dataclass(frozen=True)
class Found:
    """One backup as the bucket has it: believable, with what it says, or with the reason why not."""

    id: str
    folder: str
    keys: tuple[str, ...]
    manifest: Manifest | None
    manifest_sha256: str
    proofs: tuple[Proof, ...] = ()
    unverifiable: bool = False  # a proof lies beside it, and no key here verifies proofs
    trouble: str | None = None

    @property
    def backup(self) -> Backup | None:
        """The record of it; None where the manifest can't be believed."""
        return record_of(self.manifest, self.manifest_sha256) if self.manifest else None

    @property
    def believed(self) -> Manifest:
        """Its manifest; Refused, saying why, where that can't be believed."""
        if self.manifest is None:
            raise Refused(f"backup {self.id} can't be believed: {self.trouble}")
        return self.manifest


@dataclass(frozen=True)
class Bucket:
    """All that lies where this database's backups lie."""

    found: tuple[Found, ...]
    shelf: Shelf
    foreign: dict[str, int] = field(default_factory=dict[str, int])  # first folder: number of objects

    @property
    def backups(self) -> list[Backup]:
        """Records of the believable ones."""
        return [each.backup for each in self.found if each.backup]

    @property
    def proofs(self) -> list[Proof]:
        """All believable proofs."""
        return [proof for each in self.found for proof in each.proofs]

    @property
    def unreadable(self) -> list[Found]:
        """What can't be believed."""
        return [each for each in self.found if each.trouble]


@effect(name="read the bucket")
def read_bucket(store: BackupStore, keys: BackupKeys, stage: Stage, committing: Collection[str] = ()) -> Bucket:
    """List everything, and read every manifest and proof; `committing`: ids that are no orphans, asked for before."""
    objects, home = store.objects(), home_of(stage)
    seen = [Seen(entry.key, entry.modified) for entry in objects.list(home.folder)]
    shelf = sort_keys(seen, home, grace=stage.retention.grace, now=objects.now(), committing=committing)

    reader = Reader(objects, keys, home, store.prefix)
    with ThreadPoolExecutor(READERS) as readers:
        found = tuple(readers.map(reader.found, shelf.backups.keys(), shelf.backups.values()))
    return Bucket(found, shelf)


@effect(name="read one backup")
def read_one(store: BackupStore, keys: BackupKeys, stage: Stage, backup: str) -> Found:
    """One backup by its id; Missing when the bucket has none of that id, Refused when it can't be believed."""
    objects, home = store.objects(), home_of(stage)
    inside = tuple(entry.key for entry in objects.list(home.of(backup)))
    if home.of(backup) + MANIFEST not in inside:
        raise Missing(f"no backup {backup} in the store: look at them with the flow catalogue")
    found = Reader(objects, keys, home, store.prefix).found(backup, inside)
    if found.trouble:
        raise Refused(f"backup {backup} can't be believed: {found.trouble}")
    return found


@effect(name="count what is foreign")
def count_foreign(store: BackupStore, stage: Stage) -> dict[str, int]:
    """Objects of the whole bucket that are not this database's backups, by first folder: shown, never touched."""
    place = store.place()
    whole = replace(place, prefix="").open()
    ours = f"{store.prefix.strip('/')}/{home_of(stage).folder}".lstrip("/")
    counted: dict[str, int] = {}
    for entry in whole.list():
        if not entry.key.startswith(ours):
            first = "/".join(entry.key.split("/")[:2]) + "/" if "/" in entry.key else entry.key
            counted[first] = counted.get(first, 0) + 1
    return counted


@dataclass(frozen=True)
class Reader:
    """Reads manifests and proofs of one home, and believes only what is signed."""

    objects: Objects
    keys: BackupKeys
    home: Home
    prefix: str  # the store's own

    def found(self, backup: str, inside: Sequence[str]) -> Found:
        """Read a backup's manifest and proofs; what can't be believed is said, not raised."""
        folder = self.home.of(backup)
        try:
            text = self._signed(folder + MANIFEST)
            manifest = Manifest.parse(text, prefix=self.home.full(self.prefix, backup))
        except (ManifestError, Missing, Refused, Garbled) as error:
            return Found(backup, folder, tuple(inside), None, "", trouble=str(error))
        sha256 = hashlib.sha256(text).hexdigest()
        papers = [key for key in inside if _is_proof(key.rpartition("/")[2])]
        proofs, unverifiable = tuple(self._proofs(papers, sha256)), bool(papers) and not self.keys.proof_verifying_keys
        return Found(backup, folder, tuple(inside), manifest, sha256, proofs, unverifiable)

    def _proofs(self, papers: Sequence[str], manifest_sha256: str) -> Iterator[Proof]:
        """The proofs that are signed and speak of this very manifest; a forged one is as if it were not there."""
        for key in papers:
            try:
                paper = ProofPaper.parse(self._signed(key), key=key)
            except (ManifestError, Missing, Refused):
                continue
            if paper.manifest_sha256 == manifest_sha256:
                yield paper.record()

    def _signed(self, key: str) -> bytes:
        """Verify first, parse afterwards: the bytes of a paper whose signature is good."""
        text = self.objects.get(key)
        self.keys.verify(text, self.objects.get(signature_of(key)))
        return text


def _is_proof(name: str) -> bool:
    return name.startswith("proof-") and name.endswith(".json")


@effect(name="look at objects", task_run_name="look at {found.id} in the store")
def look_at_objects(store: BackupStore, found: Found) -> int:
    """Rung 0: every object is there, of the size and with the checksums that the manifest names; how many they are."""
    objects, manifest = store.objects(), found.believed
    for each in manifest.objects:
        parts = tuple(Part(part.bytes, part.sha256) for part in each.parts)
        there = objects.head(found.folder + each.key, parts)
        if there.bytes != each.bytes:
            raise Garbled(f"{each.key} has {there.bytes} bytes in the store, the manifest names {each.bytes}")
        if there.sha256 not in {None, each.sha256}:
            raise Garbled(f"{each.key} is not what was written: the store's sha256 is not the manifest's")
    return len(manifest.objects)


def opened_by(world: "World", manifest: Manifest) -> list[str]:
    """This host's identities; NotDone when none of them opens the backup."""
    identities = world.restore_key.identities()
    if not any(recipient_of(each) in manifest.recipients for each in identities):
        raise NotDone(
            f"no identity on this host opens {manifest.id}: it was encrypted to {', '.join(manifest.recipients)};"
            " run it where the identity of one of these lies"
        )
    return identities


def graded_with_memory(world: "World", bucket: Bucket) -> list[Graded]:
    """The bucket's backups with their grades, and the ledger's failed ones with the proofs that were asked for.

    Without a ledger nothing is pending and nothing failed: the bucket alone speaks.
    """
    try:
        remembered = {each.id: each for each in world.ledger.backups()}
    except BlockError:
        remembered = {}
    asked = {name: each.proof_asked_at for name, each in remembered.items()}
    backups = [each.model_copy(update={"proof_asked_at": asked.get(each.id)}) for each in bucket.backups]
    failed = [each for each in remembered.values() if each.state == "failed"]
    unverifiable = {each.id for each in bucket.found if each.unverifiable}
    return [graded(each, bucket.proofs, unverifiable=each.id in unverifiable) for each in (*backups, *failed)]


def rebuild_ledger(world: "World", bucket: Bucket) -> str:
    """Make the ledger equal to the bucket: record what it does not know, forget complete backups that are gone."""
    there = {each.id for each in bucket.found}
    gone = [each.id for each in world.ledger.backups() if each.state == "complete" and each.id not in there]
    for backup in gone:
        world.ledger.forget(backup)
    recorded = f"{count(record_in_ledger(world, bucket), 'record')} written to the ledger"
    return f"{recorded}, {count(len(gone), 'backup')} forgotten that are not in the bucket" if gone else recorded


def record_in_ledger(world: "World", bucket: Bucket) -> int:
    """Write what the bucket holds and the ledger does not know; returns how many records were written."""
    known = {each.id for each in world.ledger.backups()}
    proven = {(each.backup, each.at) for each in world.ledger.proofs()}
    records = [
        *(each for each in bucket.backups if each.id not in known),
        *(each for each in bucket.proofs if (each.backup, each.at) not in proven),
    ]
    for record in records:
        world.ledger.remember(record)
    return len(records)


def strays_page(world: "World", bucket: Bucket) -> str:
    """What is no backup here: not believable, growing, orphaned, unfinished, foreign; databases left half restored."""
    lines = ["# What else is there"]
    lines += [f"- **not believable**: {each.id}: {each.trouble}" for each in bucket.unreadable]
    lines += [f"- without a manifest yet, perhaps being written: {name}" for name in bucket.shelf.growing]
    lines += [f"- without a manifest, swept by the next prune: {name}" for name in bucket.shelf.orphans]
    lines += [*_unfinished(world), *_foreign(world), *_half_restored(world)]
    return "\n".join(lines if len(lines) > 1 else [*lines, "Nothing."])


def _unfinished(world: "World") -> list[str]:
    """A line for each upload that nobody completed; who reads need not be let to list them."""
    try:
        uploads = list(world.reading.objects().uploads(home_of(world.stage).folder))
    except Refused as refused:
        return [f"- unfinished uploads can't be listed with these rights: {refused}"]
    return [f"- unfinished upload since {moment(each.started)}: {each.key}" for each in uploads]


def _foreign(world: "World") -> list[str]:
    """A line for each folder that is not ours; a team may give rights to our prefix alone."""
    try:
        foreign = count_foreign(world.reading, world.stage)
    except Refused as refused:
        return [f"- what is foreign can't be counted with these rights: {refused}"]
    return [f"- foreign, never touched: {count(number, 'object')} in {name}" for name, number in foreign.items()]


def _half_restored(world: "World") -> list[str]:
    """A line for each database on the stage's own server that no open restore is at work on."""
    try:
        names = databases.half_restored(world.database.address(), f"{world.stage.database.name}_restore_")
    except BlockError as away:
        return [f"- which databases are half restored can't be asked: {away}"]
    try:
        held = {scope for each in world.ledger.open() for scope in each.scopes}
    except BlockError:
        held = set[str]()
    dead = [name for name in names if f"{world.stage.name}/database/{name}" not in held]
    return [f"- **half restored**: database {name}, of a restore that died; drop it by hand" for name in dead]


def accusations(world: "World", there: Collection[str]) -> tuple[str, ...]:
    """A sentence for each backup that is there and that a verification found not to be what was stored."""
    return tuple(accused(each) for each in not_as_stored(world.ledger.checks()) if each.backup in there)
