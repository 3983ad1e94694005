"""The manifest of a backup and the paper of a proof: what they say, and what makes them unbelievable.

Both are read only after their signature was verified over the very bytes that are stored, and are never written anew
to compare. A backup without a valid signed manifest does not exist; the manifest is written last, once, and stays.
It is clear text: names of tables, counts and names of settings, never a value.
"""

from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from flows.catalogue.contents import (
    DatabaseFacts,
    Extension,
    Instant,
    LargeObjects,
    ManifestExcluded,
    ManifestSequence,
    ManifestTable,
    Paper,
    SettingName,
    Sha256,
    SnapshotFacts,
    StoredObject,
    Totals,
)
from flows.catalogue.layout import Home, role_of
from flows.records import MOST_DIFFERENCES, Difference, Kind, Proof, Ruling, canonical, parse_id

MANIFEST_FORMAT = "shipkeeper-backup/1"
PROOF_FORMAT = "shipkeeper-proof/1"


class ManifestError(Exception):
    """A manifest or a proof's paper can't be believed; one sentence says which and why."""


def labels(backup: str, at: datetime, service: str) -> dict[str, str]:
    """The metadata of every object of a backup: for people's eyes, nothing trusts them."""
    return {"backup-id": backup, "backup-date": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", "service": service}


class _Signed(Paper):
    def text(self) -> bytes:
        """The canonical bytes: what is stored and signed."""
        return canonical(self.model_dump(mode="json", by_alias=True))


class Manifest(_Signed):
    """What a backup is: everything a restore needs to know, and everything it will be compared with."""

    format: Literal["shipkeeper-backup/1"] = MANIFEST_FORMAT
    id: str
    kind: Kind
    service: str
    stage: str
    prefix: str  # the whole key of its folder, with the store's prefix and a slash at the end
    started: Instant
    finished: Instant
    locked_until: Instant | None
    operation: int | None  # null, as the token, when it ran without the ledger
    token: int | None
    tools: dict[str, str]
    database: DatabaseFacts
    snapshot: SnapshotFacts
    pinned: dict[str, str]  # the settings that decide how values look as text
    recipients: tuple[str, ...] = Field(min_length=1)
    signing_key: str
    objects: tuple[StoredObject, ...]
    tables: tuple[ManifestTable, ...]
    excluded: tuple[ManifestExcluded, ...]
    sequences: tuple[ManifestSequence, ...]
    large_objects: LargeObjects
    matviews: tuple[str, ...]
    dependents: dict[str, tuple[str, ...]]  # objects by the left out schema that they hang on
    extensions: tuple[Extension, ...]
    roles: tuple[str, ...]
    policy_roles: tuple[str, ...] | None = None  # those that policies name; not known of older backups
    settings: tuple[SettingName, ...]
    left_out: tuple[str, ...]
    totals: Totals
    restore: tuple[str, ...]  # the commands by hand

    @property
    def labels(self) -> dict[str, str]:
        """What each of its objects is labelled with in the store."""
        return labels(self.id, self.snapshot.time, self.service)

    @classmethod
    def parse(cls, data: bytes, *, prefix: str) -> Self:
        """Read the verified bytes of the manifest that lies in the folder `prefix` (the whole key, with its slash)."""
        what = f"the manifest in {prefix}"
        _demand_format(data, MANIFEST_FORMAT, what)
        manifest = _read(cls, data, what)
        for complaint in manifest.complaints(prefix):
            raise ManifestError(f"{what} {complaint}")
        return manifest

    def complaints(self, prefix: str) -> list[str]:
        """All that contradicts itself or its folder; nothing in a manifest that can be believed."""
        return [*_place(self, prefix), *_objects(self), *_sums(self)]


class ProofSeconds(Paper):
    """How long the steps of a proof took."""

    download: float
    load: float
    compare: float


class ProofPaper(_Signed):
    """What came of one proof, signed by the prover's key; it never changes the backup's manifest."""

    format: Literal["shipkeeper-proof/1"] = PROOF_FORMAT
    id: str  # its file's name without .json
    backup: str
    manifest_sha256: Sha256
    verdict: Ruling
    exceptions: tuple[str, ...]
    lacks: tuple[str, ...]
    differences: tuple[Difference, ...] = Field(max_length=MOST_DIFFERENCES)
    server_version: str
    started: Instant
    finished: Instant
    seconds: ProofSeconds
    prover: str

    @classmethod
    def parse(cls, data: bytes, *, key: str) -> Self:
        """Read the verified bytes of the proof stored at `key` (its last two parts: backup id, file name)."""
        _demand_format(data, PROOF_FORMAT, f"the proof {key}")
        paper = _read(cls, data, f"the proof {key}")
        for complaint in paper.complaints(key):
            raise ManifestError(f"the proof {key} {complaint}")
        return paper

    def complaints(self, key: str) -> list[str]:
        """All that contradicts itself or its place."""
        folder, _, name = key.rpartition("/")
        rules = {
            f"says it is {self.id}": name == f"{self.id}.json",
            f"is of another backup, {self.backup}": folder.rpartition("/")[2] == self.backup,
            "ended before it began": self.started <= self.finished,
            "says proven and names differences": self.verdict != "proven" or not self.differences,
            "says disproven and names no difference": self.verdict != "disproven" or bool(self.differences),
            "says unproven and not what was lacking": self.verdict != "unproven" or bool(self.lacks),
        }
        return [complaint for complaint, kept in rules.items() if not kept]

    def record(self) -> Proof:
        """The same as a record of the ledger."""
        return Proof(
            backup=self.backup,
            verdict=self.verdict,
            at=self.finished,
            lacks=self.lacks,
            exceptions=self.exceptions,
            differences=self.differences,
            seconds=self.seconds.model_dump(),
            prover=self.prover,
            server_version=self.server_version,
            manifest_sha256=self.manifest_sha256,
        )


def _place(manifest: Manifest, prefix: str) -> list[str]:
    """A copied or renamed folder is refused: a manifest speaks for one place and one instant only."""
    home = Home(manifest.stage, manifest.service, manifest.database.name)
    try:
        named = parse_id(manifest.id)
    except ValueError as error:
        return [f"is not believable: {error}"]
    rules = {
        f"says it belongs to {manifest.prefix}": manifest.prefix == prefix,
        f"says it is {manifest.id}, which is not its folder's": prefix.rstrip("/").rpartition("/")[2] == manifest.id,
        f"does not lie where {home.of(manifest.id)} does": f"/{prefix}".endswith("/" + home.of(manifest.id)),
        f"is {manifest.kind} by its word and {named.kind} by its id": named.kind == manifest.kind,
        "has another snapshot time than its id": manifest.snapshot.time.replace(microsecond=0) == named.at,
        "ended before it began": manifest.started <= manifest.finished,
    }
    return [complaint for complaint, kept in rules.items() if not kept]


def _objects(manifest: Manifest) -> list[str]:
    complaints = [
        f"lists {key} {times} times" for key, times in Counter(one.key for one in manifest.objects).items() if times > 1
    ]
    roles = Counter(one.role for one in manifest.objects)
    if roles["schema"] != 1:
        complaints.append(f"has {roles['schema']} schema objects, where one is wanted")
    for one in manifest.objects:
        complaints.extend(f"lists {one.key}, {complaint}" for complaint in _object(one))
    return complaints + _one_object_a_table(manifest)


def _object(one: StoredObject) -> list[str]:
    is_data = one.role == "data"
    rules = {
        f"which is no name of {one.role}": role_of(one.key) == one.role,
        "without its table, rows or hash": not is_data or None not in (one.table, one.rows, one.xxh3_128),
        "which is not data, with a table or rows": is_data or (one.table is None and one.rows is None),
        "whose parts do not add up": not one.parts or sum(part.bytes for part in one.parts) == one.bytes,
    }
    return [complaint for complaint, kept in rules.items() if not kept]


def _one_object_a_table(manifest: Manifest) -> list[str]:
    found = Counter(one.table for one in manifest.objects if one.role == "data")
    names = [f"{table.schema_}.{table.name}" for table in manifest.tables]
    complaints = [
        f"has {found[position]} data objects for {name}, where one is wanted"
        for position, name in enumerate(names)
        if found[position] != 1
    ]
    strays = [table for table in found if table is not None and table >= len(names)]
    complaints += [f"has data for table {table}, which it does not list" for table in strays]
    return complaints + [f"lists {name} {times} times" for name, times in Counter(names).items() if times > 1]


def _sums(manifest: Manifest) -> list[str]:
    right = Totals.of(manifest.tables, manifest.objects).model_dump()
    said = manifest.totals.model_dump()
    return [
        f"says {said[name]} {name} in all, its list holds {right[name]}" for name in right if said[name] != right[name]
    ]


def _demand_format(data: bytes, known: str, what: str) -> None:
    try:
        tree: Any = from_json(data)
    except ValueError:
        raise ManifestError(f"{what} is no JSON text") from None
    found: object = tree.get("format") if isinstance(tree, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if found == known:
        return
    if isinstance(found, str) and found.startswith(known.partition("/")[0] + "/"):
        raise ManifestError(f"{what} was made by a newer shipkeeper: its format is {found}, known is {known}")
    raise ManifestError(f"{what} has not the format {known}")


_Model = TypeVar("_Model", bound=_Signed)


def _read(model: type[_Model], data: bytes, what: str) -> _Model:
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise ManifestError(f"{what} {_said(error.errors(include_url=False)[0])}") from None


def _said(error: ErrorDetails) -> str:
    where = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"was made by a newer shipkeeper: it has the field {where}"
    if error["type"] == "missing":
        return f"lacks the field {where}"
    return f"has a wrong {where}: {error['msg']}"
