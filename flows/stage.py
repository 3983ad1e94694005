"""What we operate in one environment: services, the database, objectives, the store, retention.

One TOML file a stage, deployments/stages/STAGE.toml, strict: a key that is not known here is refused with the nearest
one that is. It holds names, numbers and thresholds, never a secret: those are in blocks named after the stage.

`Stage.parse` is pure; `Stage.named` reads the file, by its path from the project's root.
"""

import json
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from flows.records import KINDS, Kind
from flows.stage_errors import StageError, complaints, nearest, syntax_complaint
from flows.stage_release import Bake, Release
from flows.stage_values import Duration, Percent, Policy, Section, Span, Word, said

STAGES = Path(__file__).parent.parent / "deployments" / "stages"

VerifyingKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
_NAME = r"^[a-z][a-z0-9-]{0,31}$"  # also a work pool, a queue, the first part of each key in the store


class Service(Section):
    """The service as its users know it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]  # a folder of the backups' layout
    public_url: str = ""


class Part(Section):
    """One process of the service on its platform."""

    name: Word
    source: Literal["repository", "image"]
    branch: str = ""
    folder: str = ""
    image: str = ""
    builder: Literal["", "RAILPACK", "NIXPACKS", "DOCKERFILE"] = ""
    build: str = ""
    start: Word
    replicas: Annotated[int, Field(ge=1)] = 1
    region: str = ""  # empty: the platform's choice
    health_path: str = ""  # empty: none
    health_timeout: Duration = timedelta(seconds=30)
    restart_policy: Literal["ON_FAILURE", "ALWAYS", "NEVER"] = "ON_FAILURE"
    restart_retries: Annotated[int, Field(ge=0)] = 3
    volume: str = ""
    volume_path: str = ""
    variables: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> Self:
        if self.source == "image" and not self.image:
            raise ValueError('image, as its source is "image"')
        if self.source == "repository" and not (self.branch and self.folder):
            raise ValueError('branch and folder, as its source is "repository"')
        return self


class Database(Section):
    """The service's database, and what of it is not backed up."""

    name: Word
    provider: Literal["postgres", "railway", "supabase"] = "postgres"
    exclude_schemas: tuple[Word, ...] = ()  # patterns; schemas are left out by name, never chosen
    provider_schemas: tuple[Word, ...] = ()  # left out too, but may match nothing: what a provider may or may not have
    exclude_data: tuple[Word, ...] = ()  # patterns of schema.table: the table is kept, its rows are not
    lock_wait: Duration = timedelta(seconds=60)
    snapshot_limit: Duration = timedelta(hours=6)  # a backup that lasts longer holds back vacuum: it is ended
    tools: str = ""  # where the client tools lie; empty: they are looked for


class Objectives(Section):
    """What was promised: how old the newest backup and the newest proven one may be, how long a recovery may take."""

    rpo: Duration
    rto: Duration
    proof_age: Duration = timedelta(days=8)  # a week, as the rarest policy proves, and a day for the proof


class LedgerRules(Section):
    """How an operation holds what it changes."""

    lease: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(seconds=30)
    when_busy: Literal["refuse", "wait"] = "refuse"
    wait_limit: Duration = timedelta(minutes=30)


class BackupRules(Section):
    """How a backup is taken, and which kinds prove themselves."""

    workers: Annotated[int, Field(ge=1, le=32)] = 2
    level: Annotated[int, Field(ge=1, le=19)] = 2  # of zstd
    prove: dict[Kind, Policy] = Field(default_factory=dict[Kind, Policy])

    def policy(self, kind: Kind) -> str:
        """When a backup of that kind is proven; what the TOML does not name is always proven."""
        return self.prove.get(kind, "every")

    @property
    def proves(self) -> bool:
        """Whether a backup of any kind is ever proven."""
        return any(self.policy(kind) != "never" for kind in KINDS)


class RestoreRules(Section):
    """How a backup is brought back."""

    workers: Annotated[int, Field(ge=1, le=32)] = 2


class Store(Section):
    """Where backups lie."""

    kind: Literal["s3", "directory"] = "s3"
    bucket: str = ""
    prefix: Annotated[str, Field(pattern=r"^[^/\s][^\s]*[^/\s]$|^[^/\s]?$")] = "backups"
    region: str = ""
    sse: Literal["", "AES256", "aws:kms"] = ""
    storage_class: str = ""  # of objects from 128 KiB on; empty: the store's own
    frequent_storage_class: str = ""  # of backups that live two days only
    folder: str = ""

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.kind == "s3" and not self.bucket:
            raise ValueError('bucket, as its kind is "s3"')
        if self.kind == "directory" and not self.folder:
            raise ValueError('folder, as its kind is "directory"')
        return self


class PinnedKeys(Section):
    """Public keys pinned here as well as in the block, so that both must agree; empty: only the block's."""

    recipients: tuple[Annotated[str, Field(pattern=r"^age1[0-9a-z]{58}$")], ...] = ()
    verifying_keys: tuple[VerifyingKey, ...] = ()  # of backups
    proof_verifying_keys: tuple[VerifyingKey, ...] = ()


class Retention(Section):
    """Which backups stay. Windows count back from the newest complete backup, not from now."""

    hourly: Span = timedelta(hours=48)
    daily: Span = timedelta(days=7)
    weekly: Span = timedelta(days=30)
    monthly: Span = timedelta(days=365)
    extra: Span = timedelta(days=7)  # on-demand, before-deploy, before-shutdown
    keep_last: Annotated[int, Field(ge=1)] = 3
    evidence: Span = timedelta(days=7)  # disproven and failed ones, from their verdict on
    max_drop_percent: Percent = 50
    max_shrink_percent: Percent = 30
    grace: Annotated[Duration, Field(ge=timedelta(hours=1))] = timedelta(hours=24)  # of objects without a manifest


class Environment(Section):
    """The service's variables: which must be set, and which values this stage sets itself."""

    required: tuple[Word, ...] = ()
    presets: dict[str, str] = Field(default_factory=dict)


class Stage(Section):
    """One environment that is operated."""

    name: Annotated[str, Field(pattern=_NAME)]
    faults: bool = False  # whether tests may end or stop its processes
    service: Service
    database: Database
    objectives: Objectives
    store: Store
    ledger: LedgerRules = LedgerRules()
    backup: BackupRules = BackupRules()
    restore: RestoreRules = RestoreRules()
    pinned_keys: PinnedKeys = PinnedKeys()
    retention: Retention = Retention()
    environment: Environment = Environment()
    release: Release = Release()
    bake: Bake = Bake()
    parts: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _lets_a_backup_end_before_its_objects_are_swept(self) -> Self:
        if self.retention.grace <= self.database.snapshot_limit:
            grace, limit = (said(each) for each in (self.retention.grace, self.database.snapshot_limit))
            raise ValueError(
                f"retention.grace wants more than database.snapshot_limit ({limit}), found {grace}: a prune would sweep"
                " objects of a backup that is still being taken"
            )
        return self

    @classmethod
    def parse(cls, text: str, name: str, file: str = "") -> Self:
        """The stage that a TOML text describes; StageError names every fault, with its line and what was expected."""
        file = file or f"{name}.toml"
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise StageError([syntax_complaint(error, file)]) from None
        if "name" in tree:
            raise StageError([f"{file}: name is not known: the stage is called as its file"])
        try:
            return cls.model_validate_json(json.dumps({**tree, "name": name}, default=str), strict=True)
        except ValidationError as error:
            raise StageError(complaints(error, cls, text, file)) from None

    @classmethod
    def named(cls, name: str, folder: Path = STAGES) -> Self:
        """The stage described by NAME.toml in that folder."""
        known = sorted(path.stem for path in folder.glob("*.toml"))
        if name not in known:
            raise StageError([f"no stage {name!r}: known are {', '.join(known) or 'none'}{nearest(name, known)}"])
        file = folder / f"{name}.toml"
        return cls.parse(file.read_text(encoding="utf-8"), name, file.name)
