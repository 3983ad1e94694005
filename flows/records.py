"""What we remember: plans, backups, proofs, checks, as frozen values that travel through the ledger as JSON.

Times are aware and UTC, durations in `seconds` are seconds by step, sizes are bytes. Nothing here reads a clock, a
store or the ledger; a record holds no secret.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Kind = Literal["frequent", "daily", "weekly", "monthly", "on-demand", "before-deploy", "before-shutdown"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Grade = Literal["proven", "unproven", "pending", "disproven", "failed"]
Ruling = Literal["proven", "unproven", "disproven"]

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: what a person can read aloud
MOST_DIFFERENCES = 20  # named in a proof; the rest is only counted by who compares

_ID = re.compile(rf"(\d{{8}}T\d{{6}}Z)-({'|'.join(KINDS)})-([0-9a-z]{{6}})")
_ID_TIME = "%Y%m%dT%H%M%SZ"


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC)


Utc = Annotated[AwareDatetime, AfterValidator(_utc)]


class Record(BaseModel):
    """A frozen value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(Record):
    """What an operation sets and the readings it rests on; a person approves its digest.

    `loose` names the fields that do not bind: estimates, ages, counters, or the second look would always differ.
    """

    loose: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a plan whose loose fields are not its own: a misspelt one would bind in silence."""
        super().__pydantic_init_subclass__(**kwargs)
        if unknown := sorted(cls.loose - cls.model_fields.keys()):
            raise TypeError(f"{cls.__name__}.loose names fields that it does not have: {', '.join(unknown)}")

    def digest(self) -> str:
        """SHA-256, as hex, of the canonical JSON of the binding fields."""
        binding = self.model_dump(mode="json", exclude=set(self.loose))
        return hashlib.sha256(canonical(binding)).hexdigest()


class Backup(Record):
    """One backup of one database, complete or failed. A failed one may lack what it never reached."""

    id: str
    stage: str
    service: str
    database: str
    kind: Kind
    state: Literal["complete", "failed"]
    snapshot_at: Utc | None = None
    started: Utc
    finished: Utc | None = None
    seconds: dict[str, float] = Field(default_factory=dict)  # by step
    tables: int = 0
    rows: int = 0
    plain_bytes: int = 0
    stored_bytes: int = 0
    size_bytes: int = 0  # the database's own size on its server
    prefix: str = ""  # its folder in the store, with the store's own prefix
    manifest_sha256: str | None = None
    error: str | None = None
    proof_asked_at: Utc | None = None
    operation: int | None = None
    token: int | None = None

    @model_validator(mode="after")
    def _says_what_its_state_needs(self) -> "Backup":
        if self.state == "complete" and (self.snapshot_at is None or self.manifest_sha256 is None):
            raise ValueError(f"backup {self.id} cannot be complete without a snapshot's time and a manifest")
        if self.state == "failed" and not self.error:
            raise ValueError(f"backup {self.id} failed and does not say why")
        return self

    @property
    def at(self) -> datetime:
        """When its data was true: the snapshot's time, or the start where it never got that far."""
        return self.snapshot_at or self.started


class Difference(Record):
    """What a restored database has otherwise than the manifest says; values of rows never stand here."""

    what: str
    wanted: str
    found: str


class Proof(Record):
    """What came of restoring one backup and comparing it with its manifest."""

    backup: str
    verdict: Ruling
    at: Utc
    lacks: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = Field(default=(), max_length=MOST_DIFFERENCES)
    seconds: dict[str, float] = Field(default_factory=dict)  # download, load, compare
    prover: str
    server_version: str
    manifest_sha256: str


class Check(Record):
    """One rung of the verify ladder, climbed once: 0 signature and sizes, 1 every byte read, 2 rows counted."""

    backup: str
    rung: int = Field(ge=0, le=5)
    at: Utc
    ok: bool
    sentence: str


class BackupId(NamedTuple):
    """What a backup's id says: the snapshot's time (to the second), the kind, six random characters."""

    at: datetime
    kind: Kind
    random: str


def backup_id(at: datetime, kind: Kind, random: str) -> str:
    """The id of a backup whose snapshot is of `at`; `random` is six characters of ID_ALPHABET. Ids sort by time."""
    made = f"{_utc(at):{_ID_TIME}}-{kind}-{random}"
    parse_id(made)
    return made


def ids_in(text: str) -> tuple[str, ...]:
    """The ids of backups that a sentence names, each once, in its order."""
    return tuple(dict.fromkeys(found[0] for found in _ID.finditer(text)))


def parse_id(text: str) -> BackupId:
    """The parts of a backup's id; ValueError in one sentence when it is none."""
    found = _ID.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no backup id: expected one like 20261124T020000Z-daily-k3v9q2")
    time, kind, random = found.groups()
    try:
        at = datetime.strptime(time, _ID_TIME).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is no backup id: {time} is no time") from None
    return BackupId(at, next(known for known in KINDS if known == kind), random)


def is_id(text: str) -> bool:
    """Whether the text is a backup's id."""
    try:
        parse_id(text)
    except ValueError:
        return False
    return True


def canonical(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8. What is signed or hashed goes through here."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
