"""Looks at the bucket: which backups there are, what their manifests and proofs say. Believes only what is signed.

The bucket is the truth and the ledger a cache of it, so everything here works with the bucket and the keys alone.
"""

import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from blocks.errors import BlockError, Garbled, Missing, Refused
from blocks.keys import BackupKeys
from blocks.postgres.tools import Tools, tools_for
from blocks.storage.block import BackupStore
from blocks.storage.objects import Objects, Part, Unfinished
from blocks.stream import recipient_of, unpack
from flows import people
from flows.catalogue import retention
from flows.catalogue.grades import Graded, graded
from flows.catalogue.ladder import READ_ALL, Due, accused, due, not_as_stored
from flows.catalogue.layout import MANIFEST, Home, Seen, Shelf, home_of, signature_of, sort_keys
from flows.catalogue.manifest import Manifest, ManifestError, ProofPaper
from flows.catalogue.record import record_of
from flows.catalogue.settings import Papers
from flows.catalogue.steps import PrunePlan, being_committed, being_restored, remove
from flows.effect import NotDone, effect
from flows.records import KINDS, Backup, Check, Proof
from flows.stage import Stage
from flows.words import count, listed, moment, size

if TYPE_CHECKING:
    from flows.world import World

BY_AGE = "by-age"
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
    unfinished: tuple[Unfinished, ...] = ()
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
    return Bucket(found, shelf, tuple(objects.uploads(home.folder)))


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
        return Found(backup, folder, tuple(inside), manifest, sha256, tuple(self._proofs(inside, sha256)))

    def _proofs(self, inside: Sequence[str], manifest_sha256: str) -> Iterator[Proof]:
        """The proofs that are signed and speak of this very manifest; a forged one is as if it were not there."""
        for key in inside:
            name = key.rpartition("/")[2]
            if name.startswith("proof-") and name.endswith(".json"):
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


@effect(name="read whole", task_run_name="read {found.id} whole")
def read_whole(store: BackupStore, found: Found, identities: Sequence[str], tools: Tools) -> int:
    """Rungs 1 and 2: every byte decrypts and decompresses, rows and hashes agree, the archive's list reads.

    Returns the stored bytes that were read.
    """
    objects, manifest = store.objects(), found.believed
    for each in manifest.objects:
        source = objects.read(found.folder + each.key)
        if each.role == "schema":
            _list_archive(source, identities, each.sha256, tools)
            continue
        facts = unpack(source, lambda _: None, identities, sha256=each.sha256)
        if each.role == "data" and (facts.rows, facts.xxh3_128) != (each.rows, each.xxh3_128):
            raise Garbled(f"{each.key} holds {facts.rows} rows, wanted {each.rows}, or rows of another text")
    return manifest.totals.stored_bytes


@dataclass(frozen=True)
class Means:
    """What this host needs to read a backup whole; lacking it says nothing against the backup."""

    identities: Sequence[str]
    tools: Tools


def means_to_read(world: "World", manifest: Manifest) -> Means:
    """Identities that open it and client tools of its major; Missing, Refused or NotDone where this host lacks them."""
    tools = tools_for(manifest.database.server_version_num // 10000, world.stage.database.tools)
    return Means(opened_by(world, manifest), tools)


def opened_by(world: "World", manifest: Manifest) -> list[str]:
    """This host's identities; NotDone when none of them opens the backup."""
    identities = world.restore_key.identities()
    if not any(recipient_of(each) in manifest.recipients for each in identities):
        raise NotDone(
            f"no identity on this host opens {manifest.id}: it was encrypted to {', '.join(manifest.recipients)};"
            " run it where the identity of one of these lies"
        )
    return identities


def _climbed(world: "World", found: Found, means: Means | None) -> str:
    if found.manifest is None:
        raise Garbled(str(found.trouble))
    number = look_at_objects(world.reading, found)
    if means is None:
        return f"{count(number, 'object')} in place, sizes and checksums agree"
    read = read_whole(world.reading, found, means.identities, means.tools)
    return f"{size(read)} read, decrypted and counted: all rows and hashes agree"


def _list_archive(source: Iterator[bytes], identities: Sequence[str], sha256: str, tools: Tools) -> None:
    with tempfile.TemporaryFile() as listed:
        process = subprocess.Popen(
            [tools.path("pg_restore"), "-l"], stdin=subprocess.PIPE, stdout=listed, stderr=listed
        )
        with contextlib.closing(process.stdin) if process.stdin else contextlib.nullcontext() as pipe:
            unpack(source, pipe.write if pipe else lambda _: None, identities, sha256=sha256)
        if process.wait():
            raise Garbled(f"pg_restore {tools.major} can't read the list of the schema's archive")


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
    return [graded(each, bucket.proofs) for each in (*backups, *failed)]


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
    """What lies in the bucket and is no backup here: not believable, growing, orphaned, unfinished, foreign."""
    foreign: dict[str, int] = {}
    rights = ""
    try:
        foreign = count_foreign(world.reading, world.stage)
    except Refused as refused:  # a team may give rights to our prefix alone
        rights = f"- what is foreign can't be counted with these rights: {refused}"
    lines = ["# What else lies in the bucket"]
    lines += [f"- **not believable**: {each.id}: {each.trouble}" for each in bucket.unreadable]
    lines += [f"- without a manifest yet, perhaps being written: {name}" for name in bucket.shelf.growing]
    lines += [f"- without a manifest, swept by the next prune: {name}" for name in bucket.shelf.orphans]
    lines += [f"- unfinished upload since {moment(each.started)}: {each.key}" for each in bucket.unfinished]
    lines += [f"- foreign, never touched: {count(number, 'object')} in {name}" for name, number in foreign.items()]
    lines += [rights] if rights else []
    return "\n".join(lines if len(lines) > 1 else [*lines, "Nothing."])


def due_or_named(world: "World", bucket: Bucket, which: str) -> list[Due]:
    """What is to be verified now."""
    if which == BY_AGE:
        return due(bucket.backups, world.ledger.checks(), datetime.now(UTC))
    if which not in {each.id for each in bucket.found}:
        raise Missing(f"no backup {which} in the bucket: name one that the flow catalogue shows, or say {BY_AGE}")
    return [Due(which, READ_ALL, "asked for by name")]


@dataclass(frozen=True)
class Climbed:
    """What came of one verification; `lacks` says why this host could not read the backup, which is only looked at."""

    check: Check
    lacks: str = ""


def climb(world: "World", bucket: Bucket, step: Due) -> Climbed:
    """Verify one backup up to its rung, or as high as this host can, and remember what came of it."""
    found = next(each for each in bucket.found if each.id == step.backup)
    means, lacks = None, ""
    if found.manifest and step.rung >= READ_ALL:
        try:
            means = means_to_read(world, found.manifest)
        except (BlockError, NotDone) as lacking:
            lacks = f"{found.id}: {lacking}"
    try:
        sentence, ok = _climbed(world, found, means), True
    except (Garbled, Missing) as wrong:
        sentence, ok = f"{found.id}: {wrong}", False
    rung = 0 if lacks else step.rung
    check = Check(backup=found.id, rung=rung, at=datetime.now(UTC), ok=ok, sentence=sentence)
    world.remember(check)
    return Climbed(check, lacks)


def verified(climbed: Sequence[Climbed], bucket: Bucket) -> str:
    """The sentence over all of them; NotDone when one is not what was stored, or could not be read on this host."""
    wrong = [
        *(each.check.sentence for each in climbed if not each.check.ok),
        *(f"{each.id}: {each.trouble}" for each in bucket.unreadable),
    ]
    lacking = [each.lacks for each in climbed if each.lacks]
    said = [f"{count(len(wrong), 'backup')} not what was stored: {'; '.join(wrong)}"] if wrong else []
    said += [f"{count(len(lacking), 'backup')} not read: {'; '.join(lacking)}"] if lacking else []
    if said:
        raise NotDone("; ".join(said))
    return f"{count(len(climbed), 'backup')} verified, all are what was stored"


def accusations(world: "World", there: Collection[str]) -> tuple[str, ...]:
    """A sentence for each backup that is there and that a verification found not to be what was stored."""
    return tuple(accused(each) for each in not_as_stored(world.ledger.checks()) if each.backup in there)


def check_row(check: Check) -> dict[str, str]:
    """How a check is shown."""
    return {
        "backup": check.backup,
        "rung": str(check.rung),
        "good": "yes" if check.ok else "NO",
        "what": check.sentence,
    }


@dataclass(frozen=True)
class PruneLook:
    """What a prune saw and decided."""

    plan: retention.PrunePlan
    bucket: Bucket
    uploads: tuple[Unfinished, ...]

    @property
    def has_work(self) -> bool:
        """Whether there is anything to delete."""
        return bool(self.plan.drops or self.bucket.shelf.orphans or self.uploads)


def look_for_prune(world: "World", *, really: bool) -> PruneLook:
    """Read the bucket whole and decide what stays."""
    stage, now = world.stage, datetime.now(UTC)
    open_ones = world.ledger.open()  # before the bucket: a commit that ends in between has its manifest there
    committing = being_committed(open_ones)
    bucket = read_bucket(world.pruning, world.keys, stage, committing)
    around = retention.Circumstances(
        wants_proofs=any(stage.backup.policy(kind) != "never" for kind in KINDS),
        unreadable=tuple(each.id for each in bucket.unreadable),
        wrong=accusations(world, {each.id for each in bucket.found}),
        restoring=being_restored(open_ones),
        really=really,
    )
    in_bucket = {each.id for each in bucket.backups}
    grades = [each for each in graded_with_memory(world, bucket) if each.id in in_bucket or each.grade == "failed"]
    plan = retention.prune_plan(grades, stage.retention, now, around)
    old = world.pruning.objects().now() - stage.retention.grace
    uploads = (each for each in bucket.unfinished if home_of(stage).owner(each.key) not in committing)
    return PruneLook(plan, bucket, tuple(each for each in uploads if each.started < old))


def carry_out_prune(world: "World", look: PruneLook, *, really: bool) -> str:
    """Delete through the ledger, after another look while the database's backups are held."""

    def plan_of(seen: PruneLook) -> PrunePlan:
        return PrunePlan(
            stage=world.stage.name,
            database=world.stage.database.name,
            victims=tuple(each.id for each in seen.plan.drops),
            orphans=tuple(seen.bucket.shelf.orphans),
            uploads=tuple((each.key, each.id) for each in seen.uploads),
        )

    world.carry_out(
        remove,
        plan_of(look),
        key=f"prune {people.run_key()}",
        look=lambda: plan_of(look_for_prune(world, really=really)),
    )
    kept = [each.id for each in look.plan.drops if Papers(each.id).read(world)]
    gone = count(len(look.plan.drops) - len(kept), "backup")
    stayed = f", {listed(kept)} stayed as it became needed" if kept else ""
    return f"{gone} deleted{stayed}, {count(len(look.bucket.shelf.orphans), 'orphan')} swept"
