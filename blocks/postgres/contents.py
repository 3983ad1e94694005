"""What a backup holds, as plain values: what `dump` gives, the manifest keeps, and `load` and `read_back` take.

The names are the manifest's own, so that `to_json` is a part of it and `Contents.of(manifest)` the way back. Values of
rows are never here, nor is a connection.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from blocks.storage.objects import Part

_NAME_BYTES = 200


@dataclass(frozen=True)
class Table:
    """A table whose rows are taken. `columns` are the written ones (no generated ones), `key` those of the primary key.

    `condition` is None but for configuration tables of an extension: the WHERE clause of their rows, "" for all.
    """

    schema: str
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    persistence: str = "p"
    size_bytes: int = 0
    rows_estimate: int = 0
    condition: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The manifest's line of it."""
        shown = {"schema": self.schema, "name": self.name, "columns": list(self.columns), "key": list(self.key)}
        condition = {} if self.condition is None else {"condition": self.condition}
        return {**shown, "persistence": self.persistence, **condition}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Table":
        """What `to_json` gave; JSON's lists become tuples."""
        known: dict[str, Any] = dict(value) | {"columns": tuple(value["columns"]), "key": tuple(value["key"])}
        return cls(**known)


@dataclass(frozen=True)
class Excluded:
    """A table left out by a rule: its rows ("data") or all of it ("schema"; an empty schema has no name here)."""

    schema: str
    name: str | None
    what: str
    rule: str
    rows_estimate: int = 0


@dataclass(frozen=True)
class SequenceValue:
    """Where a sequence stood after the snapshot was taken; the value is a decimal string, it can pass 2^53."""

    schema: str
    name: str
    last_value: str
    is_called: bool


@dataclass(frozen=True)
class LargeObjects:
    """Their count, and the xxh3_128 over oid (8 bytes, big endian) and content in order of oid."""

    count: int = 0
    xxh3_128: str | None = None


@dataclass(frozen=True)
class StoredObject:
    """One object of the backup; `key` is relative to the backup's prefix, `table` the position in the tables."""

    key: str
    role: str
    bytes: int
    sha256: str
    plain_bytes: int
    parts: tuple[Part, ...] = ()
    table: int | None = None
    rows: int | None = None
    xxh3_128: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The manifest's line of it: what only data objects have is absent elsewhere."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "StoredObject":
        """What `to_json` gave."""
        known: dict[str, Any] = dict(value) | {"parts": tuple(Part(**part) for part in value.get("parts", ()))}
        return cls(**known)


@dataclass(frozen=True)
class Contents:
    """Everything that a restore and its comparison need to know of a backup."""

    database: Mapping[str, Any]
    pinned: Mapping[str, str]
    objects: tuple[StoredObject, ...]
    tables: tuple[Table, ...]
    sequences: tuple[SequenceValue, ...] = ()
    large_objects: LargeObjects = field(default_factory=LargeObjects)
    matviews: tuple[str, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    extensions: tuple[Mapping[str, str], ...] = ()

    @property
    def totals(self) -> dict[str, int]:
        """The manifest's "totals"."""
        return {
            "tables": len(self.tables),
            "rows": sum(found.rows or 0 for found in self.objects),
            "plain_bytes": sum(found.plain_bytes for found in self.objects),
            "stored_bytes": sum(found.bytes for found in self.objects),
        }

    def one(self, role: str) -> StoredObject | None:
        """The object of a role that occurs once: schema, globals, catalogue, blobs."""
        return next((found for found in self.objects if found.role == role), None)

    def data(self) -> list[tuple[Table, StoredObject]]:
        """Each table with its object."""
        return [(self.tables[found.table], found) for found in self.objects if found.table is not None]

    def to_json(self) -> dict[str, Any]:
        """The manifest's fields of the same names, and "totals"."""
        return {
            "database": dict(self.database),
            "pinned": dict(self.pinned),
            "objects": [found.to_json() for found in self.objects],
            "tables": [table.to_json() for table in self.tables],
            "sequences": [asdict(sequence) for sequence in self.sequences],
            "large_objects": asdict(self.large_objects),
            "matviews": list(self.matviews),
            "excluded": [asdict(excluded) for excluded in self.excluded],
            "extensions": [dict(extension) for extension in self.extensions],
            "totals": self.totals,
        }

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "Contents":
        """Of a manifest's JSON; its other fields are not looked at."""
        return cls(
            database=manifest["database"],
            pinned=manifest["pinned"],
            objects=tuple(StoredObject.of(value) for value in manifest["objects"]),
            tables=tuple(Table.of(value) for value in manifest["tables"]),
            sequences=tuple(SequenceValue(**value) for value in manifest["sequences"]),
            large_objects=LargeObjects(**manifest["large_objects"]),
            matviews=tuple(manifest["matviews"]),
            excluded=tuple(Excluded(**value) for value in manifest["excluded"]),
            extensions=tuple(manifest["extensions"]),
        )


def data_key(position: int, schema: str, name: str) -> str:
    """data/<00012>.<schema>.<table>.copy.zst.age, safe in any store: cut at 200 bytes, then told apart by a hash."""
    whole = f"{schema}.{name}"
    safe = f"{_encoded(schema)}.{_encoded(name)}"
    if len(safe) > _NAME_BYTES:
        safe = f"{safe[:_NAME_BYTES]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    return f"data/{position:05d}.{safe}.copy.zst.age"


def _encoded(name: str) -> str:
    return re.sub(rb"[^A-Za-z0-9_-]", lambda found: b"%%%02X" % found[0][0], name.encode()).decode()
