"""A whole database into a store, from one held snapshot: the parent's side of the crew.

The invariant: it returns only when every object was stored whole and every producer ended with 0; any failure ends all
workers, their tools and their uploads. Nothing here is a backup yet: that is the signed manifest, which others write.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blocks.postgres.contents import Contents, LargeObjects, StoredObject, Table, data_key
from blocks.postgres.crew import Crew, Job, Watch
from blocks.postgres.desk import Desk, coalesced
from blocks.postgres.dump_jobs import copy_out
from blocks.postgres.snapshot import Held
from blocks.postgres.tools import Tools
from blocks.storage.objects import NO_METADATA, Place

FIRST = float("inf")


@dataclass(frozen=True)
class Progress:
    """How far it is; `estimate_bytes` is what the tables take in the database, which is not what they are as text."""

    plain_bytes: int
    estimate_bytes: int
    tables_done: int
    tables: int
    seconds: float

    @property
    def bytes_per_s(self) -> float:
        """Plain bytes a second since the start."""
        return self.plain_bytes / self.seconds if self.seconds else 0.0


def ignored(_: Progress) -> None:
    """Nobody is told."""


def unwatched() -> None:
    """Nothing ends it from outside."""


@dataclass(frozen=True)
class Dumped:
    """What was stored, with the seconds it took."""

    contents: Contents
    seconds: float


@dataclass
class Meter:
    """Turns the crew's notes into Progress."""

    tell: Callable[[Progress], None]
    tables: int
    estimate_bytes: int
    counted: str
    _bytes: int = 0
    _done: int = 0
    _started: float = field(default_factory=time.monotonic)

    def moved(self, size: int) -> None:
        """Some plain bytes went by."""
        self._bytes += size
        self._now()

    def ended(self, job: Job) -> None:
        """A job ended well."""
        self._done += job.what == self.counted
        self._now()

    def _now(self) -> None:
        seconds = time.monotonic() - self._started
        self.tell(Progress(self._bytes, self.estimate_bytes, self._done, self.tables, seconds))


def dump(  # noqa: PLR0913 - options by keyword, each with a default
    held: Held,
    place: Place,
    prefix: str,
    recipients: Sequence[str],
    *,
    tools: Tools,
    level: int = 2,
    workers: int = 2,
    metadata: Mapping[str, str] = NO_METADATA,
    storage_class: str | None = None,
    lock_wait_s: float = 60,
    progress: Callable[[Progress], None] = ignored,
    watch: Callable[[], None] = unwatched,
) -> Dumped:
    """Store everything that is held under prefix (ends with "/"), largest table first behind the schema.

    `watch` is called first and every second, after the holder was found alive; what it raises ends the dump (a limit,
    a lost lease). Raises Unreachable (the whole may be tried again), Refused, Garbled.
    """
    started = time.monotonic()
    tables = held.survey.tables
    meter = Meter(progress, len(tables), sum(table.size_bytes for table in tables), "dump_table")

    def look() -> None:
        held.alive()
        watch()

    def moved(size: int) -> None:
        meter.moved(size)
        watch()

    jobs = [*_whole_jobs(held, lock_wait_s), *_table_jobs(tables)]
    orders = _orders(held, tools) | {
        "place": place.to_json(),
        "prefix": prefix,
        "recipients": list(recipients),
        "level": level,
        "metadata": dict(metadata),
        "storage_class": storage_class,
    }
    with Crew(orders, min(workers, len(jobs))) as crew:
        results = crew.run(jobs, Watch(look, meter.moved, meter.ended))
    results = _with_locked_ones(held, Desk(orders, moved), jobs, results)
    held.alive()
    return Dumped(_contents(held, jobs, results), time.monotonic() - started)


def _with_locked_ones(
    held: Held, desk: Desk, jobs: Sequence[Job], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Tables that somebody waits to truncate or alter keep new readers out: the holder itself reads them."""

    def read(job: Job) -> dict[str, Any]:
        table = Table.of(job.arguments["table"])
        pieces = coalesced(held.read(copy_out(table, held.survey.pinned["client_encoding"])))
        return desk.store(job.arguments["key"], pieces, estimate_bytes=job.arguments["size_bytes"])

    return [read(job) if result.get("locked") else result for job, result in zip(jobs, results, strict=True)]


def _orders(held: Held, tools: Tools) -> dict[str, Any]:
    return {
        "address": held.address.to_json(),
        "bin": str(tools.bin),
        "application_name": held.application_name,
        "snapshot": held.snapshot.id,
        "pinned": dict(held.survey.pinned),
        "server_version_num": held.survey.database["server_version_num"],
    }


def _whole_jobs(held: Held, lock_wait_s: float) -> list[Job]:
    schema = {
        "key": "schema.pgc.zst.age",
        "exclude_schemas": list(held.survey.excluded_schemas),
        "lock_wait_s": lock_wait_s,
    }
    text = "".join(f"{line}\n" for line in held.lines)
    jobs = [
        Job("schema", schema, FIRST),
        Job("globals", {"key": "globals.sql.zst.age"}, FIRST),
        Job("text", {"key": "catalogue.txt.zst.age", "text": text}, FIRST),
    ]
    if held.survey.large_objects:
        jobs.append(Job("blobs", {"key": "blobs.pgc.zst.age", "lock_wait_s": lock_wait_s}, FIRST))
        jobs.append(Job("hash_blobs", {}, FIRST))
    return jobs


def _table_jobs(tables: Sequence[Table]) -> list[Job]:
    return [
        Job(
            "dump_table",
            {
                "table": table.to_json(),
                "size_bytes": table.size_bytes,
                "key": data_key(position, table.schema, table.name),
            },
            table.size_bytes,
        )
        for position, table in enumerate(tables)
    ]


def _contents(held: Held, jobs: Sequence[Job], results: Sequence[Mapping[str, Any]]) -> Contents:
    done = list(zip(jobs, results, strict=True))
    roles = {"schema": "schema", "globals": "globals", "text": "catalogue", "blobs": "blobs"}
    whole = [_stored(roles[job.what], result) for job, result in done if job.what in roles]
    data = [result for job, result in done if job.what == "dump_table"]
    hashes = [result for job, result in done if job.what == "hash_blobs"]
    return Contents(
        database=held.survey.database,
        pinned=held.survey.pinned,
        objects=(*whole, *(_stored_data(position, result) for position, result in enumerate(data))),
        tables=held.survey.tables,
        sequences=held.sequences,
        large_objects=LargeObjects(**hashes[0]) if hashes else LargeObjects(),
        matviews=held.survey.matviews,
        excluded=held.survey.excluded,
        extensions=held.survey.extensions,
    )


def _stored(role: str, result: Mapping[str, Any]) -> StoredObject:
    facts_of_rows = ("rows", "xxh3_128")
    return StoredObject.of(
        {"role": role, **{name: value for name, value in result.items() if name not in facts_of_rows}}
    )


def _stored_data(position: int, result: Mapping[str, Any]) -> StoredObject:
    return StoredObject.of({"role": "data", "table": position, **result})
