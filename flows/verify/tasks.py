"""Climbs the verify ladder: looks at stored objects, reads backups whole, and remembers what came of it.

A backup that is not what was stored fails the run; one that this host cannot read is only looked at, and says so.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from blocks.errors import BlockError, Garbled, Missing
from blocks.postgres.tools import Tools, tools_for
from blocks.storage.block import BackupStore
from blocks.stream import unpack
from flows.catalogue.manifest import Manifest
from flows.catalogue.tasks import Bucket, Found, look_at_objects, opened_by
from flows.effect import NotDone, effect
from flows.records import Check
from flows.verify.archive import lacking_tables
from flows.verify.ladder import READ_ALL, Due, due
from flows.words import count, listed, size
from flows.world import World

BY_AGE = "by-age"


def due_or_named(world: World, bucket: Bucket, which: str) -> list[Due]:
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


def climb(world: World, bucket: Bucket, step: Due) -> Climbed:
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


def check_row(check: Check) -> dict[str, str]:
    """How a check is shown."""
    return {
        "backup": check.backup,
        "rung": str(check.rung),
        "good": "yes" if check.ok else "NO",
        "what": check.sentence,
    }


@effect(name="read whole", task_run_name="read {found.id} whole")
def read_whole(store: BackupStore, found: Found, identities: Sequence[str], tools: Tools) -> int:
    """Rungs 1 and 2: every byte decrypts and decompresses, rows and hashes agree, the archive lists every table.

    Returns the stored bytes that were read.
    """
    objects, manifest = store.objects(), found.believed
    for each in manifest.objects:
        source = objects.read(found.folder + each.key)
        if each.role == "schema":
            if lacks := lacking_tables(_list_of(source, identities, each.sha256, tools), manifest):
                raise Garbled(f"{each.key} lacks {count(len(lacks), 'table')} of the manifest: {listed(lacks)}")
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


def means_to_read(world: World, manifest: Manifest) -> Means:
    """Identities that open it and client tools of its major; Missing, Refused or NotDone where this host lacks them."""
    tools = tools_for(manifest.database.server_version_num // 10000, world.stage.database.tools)
    return Means(opened_by(world, manifest), tools)


def _climbed(world: World, found: Found, means: Means | None) -> str:
    if found.manifest is None:
        raise Garbled(str(found.trouble))
    number = look_at_objects(world.reading, found)
    if means is None:
        return f"{count(number, 'object')} in place, sizes and checksums agree"
    read = read_whole(world.reading, found, means.identities, means.tools)
    return f"{size(read)} read, decrypted and counted: all rows and hashes agree"


def _list_of(source: Iterator[bytes], identities: Sequence[str], sha256: str, tools: Tools) -> str:
    command, pipe = [tools.path("pg_restore"), "-l"], subprocess.PIPE
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=pipe, stdout=said, stderr=said) as process:
            unpack(source, process.stdin.write if process.stdin else lambda _: None, identities, sha256=sha256)
        if process.returncode:
            raise Garbled(f"pg_restore {tools.major} can't read the list of the schema's archive")
        said.seek(0)
        return said.read().decode(errors="replace")
