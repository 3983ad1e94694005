"""What a manifest lists: objects, tables, sequences, facts of the source, each with its one form in JSON.

An unknown field, in stored bytes also a number in quotes, or a time without a zone is refused.
Names of tables stand in clear, values never.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from flows.catalogue.layout import Role


def _milliseconds(time: datetime) -> datetime:
    whole = time.astimezone(UTC)
    return whole.replace(microsecond=whole.microsecond // 1000 * 1000)


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[AwareDatetime, AfterValidator(_milliseconds), PlainSerializer(_rfc3339)]
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Xxh3 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Decimal = Annotated[str, Field(pattern=r"^-?\d+$")]  # sequences pass 2^53, where JSON's readers round


class Paper(BaseModel):
    """A frozen piece of what is signed; it refuses fields it does not know. Stored bytes are read strictly."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    @model_serializer(mode="wrap")
    def _without_what_it_has_not(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out optional fields that are empty; a required one that is null is written as null."""
        optional = {name for name, field in type(self).model_fields.items() if not field.is_required()}
        return {name: value for name, value in write(self).items() if value is not None or name not in optional}


class Part(Paper):
    """One part of an upload, as the store counted it."""

    bytes: Count
    sha256: Sha256


class StoredObject(Paper):
    """One object of the backup; `key` is its name in the folder. Only data has a table, rows and a hash of the text."""

    key: str
    role: Role
    table: Count | None = None  # position in `tables`
    rows: Count | None = None
    xxh3_128: Xxh3 | None = None  # of the plain COPY stream
    bytes: Count  # as stored
    sha256: Sha256  # of the stored bytes
    plain_bytes: Count
    parts: tuple[Part, ...] = ()


class ManifestTable(Paper):
    """A table whose rows are in the backup; `columns` are those that COPY wrote, generated ones left out."""

    schema_: str = Field(alias="schema")
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    persistence: Literal["p", "u"]
    condition: str | None = None  # of an extension's configuration table: the WHERE clause of its own rows


class ManifestExcluded(Paper):
    """What the stage's rules left out, each with the rule that did."""

    schema_: str = Field(alias="schema")
    name: str | None
    what: Literal["data", "schema"]
    rule: str
    rows_estimate: int | None


class ManifestSequence(Paper):
    """A sequence's value, read once after the snapshot was taken: never behind the rows."""

    schema_: str = Field(alias="schema")
    name: str
    last_value: Decimal
    is_called: bool


class Extension(Paper):
    """An extension of the source, which a target must have."""

    name: str
    version: str
    schema_: str = Field(alias="schema")


class SettingName(Paper):
    """The name of a database or role setting; its value is in the encrypted globals alone."""

    role: str | None
    name: str


class LargeObjects(Paper):
    """How many large objects, and the hash over oid and content in order of oid."""

    count: Count
    xxh3_128: Xxh3 | None


class DatabaseFacts(Paper):
    """The database that was read."""

    name: str
    oid: Count
    system_identifier: str
    server_version_num: Count
    encoding: str
    collate: str
    ctype: str
    provider: str
    collation_version: str | None
    size_bytes: Count
    locale: str | None = None  # of the providers icu and builtin
    icu_rules: str | None = None


class SnapshotFacts(Paper):
    """The instant that all objects show."""

    time: Instant
    lsn: str
    source: Literal["primary", "standby"] = Field(alias="from")
    replay_lag_seconds: float | None
    pg_snapshot: str


class Totals(Paper):
    """Sums over all objects, so that a reader can tell when one is gone."""

    tables: Count
    rows: Count
    plain_bytes: Count
    stored_bytes: Count

    @classmethod
    def of(cls, tables: Sequence[ManifestTable], objects: Iterable[StoredObject]) -> Self:
        """The sums that Manifest.parse will ask for."""
        listed = list(objects)
        return cls(
            tables=len(tables),
            rows=sum(one.rows or 0 for one in listed),
            plain_bytes=sum(one.plain_bytes for one in listed),
            stored_bytes=sum(one.bytes for one in listed),
        )
