"""The contract of a store of backups: what S3 and a directory both keep, and the plain values that name a place.

A `Place` is a value with everything to open a store, also in another process: `place.to_json()` over a pipe,
`place_from_json(...).open()` there. `Objects` is the open store; its keys are relative to the place's prefix and
"/"-separated. Every error is one of blocks/errors.py. Nothing half is ever left behind an exception, and no policy is
in here.
"""

import hashlib
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Self

from blocks.errors import BlockError, Refused

PART_BYTES = 8 << 20
IN_FLIGHT = 3
NO_METADATA: Mapping[str, str] = types.MappingProxyType({})


@dataclass(frozen=True)
class Part:
    """One part of a stored object: its length and the hex sha256 of its bytes."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Stored:
    """An object as the store has it; sha256 is None where the store cannot know it. A part is what was sent at once."""

    key: str
    bytes: int
    sha256: str | None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A line of a listing."""

    key: str
    bytes: int
    modified: datetime


@dataclass(frozen=True)
class Unfinished:
    """An upload that was begun and neither completed nor aborted: paid for, and in no listing."""

    key: str
    id: str
    started: datetime


class Objects(ABC):
    """An open store. Safe to use from several threads, but one Upload belongs to one thread."""

    @abstractmethod
    def put(
        self,
        key: str,
        data: bytes,
        *,
        only_if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        storage_class: str | None = None,
    ) -> Stored:
        """Store data under key, whole or not at all; with only_if_absent a taken key is Refused.

        Below 128 KiB the storage class is left to the store: cheaper ones bill an object as if it had that much.
        Refused may also be the second answer to a put whose first answer was lost: read it back and compare.
        """

    @abstractmethod
    def upload(
        self,
        key: str,
        *,
        part_bytes: int = PART_BYTES,
        in_flight: int = IN_FLIGHT,
        metadata: Mapping[str, str] = NO_METADATA,
        storage_class: str | None = None,
    ) -> "Upload":
        """Store what is written, however long; it holds at most in_flight parts and the one being filled.

        Metadata and storage class are as in `put`.
        """

    @abstractmethod
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of key from start on, in pieces of at most 1 MiB; Missing when absent."""

    def get(self, key: str) -> bytes:
        """All bytes of a small object; Missing when absent."""
        return b"".join(self.read(key))

    @abstractmethod
    def head(self, key: str, parts: Sequence[Part] = ()) -> Stored:
        """What the store knows of key; Missing when absent.

        Given its parts, the store's own checksum must agree with them, else Garbled; `.parts` is empty where the store
        has no checksum.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with prefix, sorted by key."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete keys; absent is fine, and every error is raised."""

    @abstractmethod
    def uploads(self, prefix: str = "") -> Iterator[Unfinished]:
        """Every unfinished upload whose key begins with prefix."""

    @abstractmethod
    def abort(self, unfinished: Unfinished) -> None:
        """Free what an unfinished upload holds; gone already is fine. Its writer, if it lives, fails."""

    @abstractmethod
    def now(self) -> datetime:
        """The store's own clock: ages of entries are taken against it, never against ours."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """What still fits in; None where the store has no end."""


class Upload(ABC):
    """An object in the making, for `with`: leaving it well completes it and sets `.stored`, an exception aborts it."""

    def __init__(self, key: str, part_bytes: int) -> None:
        self._key = key
        self._part_bytes = part_bytes
        self._filling = bytearray()
        self._sha256 = hashlib.sha256()
        self._stored: Stored | None = None

    @property
    def stored(self) -> Stored:
        """The finished object; Refused before the upload was left."""
        if self._stored is None:
            raise Refused(f"{self._key} is not stored: its upload was not finished")
        return self._stored

    def write(self, data: bytes, /) -> int:
        """Take all of data. It waits while the store is behind."""
        self._sha256.update(data)
        rest = memoryview(data)
        while rest:
            if len(self._filling) == self._part_bytes:  # only now: the last part, full or not, goes with finish
                part, self._filling = self._filling, bytearray()
                self._send(part)
            room = self._part_bytes - len(self._filling)
            self._filling += rest[:room]
            rest = rest[room:]
        return len(data)

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing, also when nothing was begun; `with` does it after an exception."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                self._stored = self._finish(self._filling)
            except BaseException as failure:
                self._abort_after(failure)
                raise
        else:
            self._abort_after(error)

    def _abort_after(self, error: BaseException) -> None:
        self._filling = bytearray()
        try:
            self.abort()
        except BlockError as again:  # what went wrong first is what counts; a sweep frees the rest
            error.add_note(f"and the unfinished upload of {self._key} could not be aborted: {again}")

    @abstractmethod
    def _send(self, part: bytearray) -> None:
        """Store a full part; another follows."""

    @abstractmethod
    def _finish(self, last: bytearray) -> Stored:
        """Store the last part (the only one, when no other was sent) and make the object appear."""


@dataclass(frozen=True)
class S3Place:
    """A prefix of a bucket and what opens it; without a key boto3 searches (environment, profile, instance role)."""

    kind: ClassVar[str] = "s3"
    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    verify: bool | str = True  # or the path of a CA bundle
    sse: str | None = None
    connect_timeout_s: float = 5
    read_timeout_s: float = 60
    attempts: int = 5
    config: Mapping[str, Any] = field(
        default_factory=dict[str, Any], repr=False
    )  # more of botocore's Config, plain JSON

    def to_json(self) -> dict[str, Any]:
        """Everything, the secrets too: for a pipe to a process of ours, never for a log or a file."""
        return {"kind": self.kind, **asdict(self)}

    def open(self) -> Objects:
        """The store at this place; nothing is asked of it yet."""
        from blocks.storage.s3 import S3Objects

        return S3Objects(self)


@dataclass(frozen=True)
class DirectoryPlace:
    """A prefix below a directory of this machine."""

    kind: ClassVar[str] = "directory"
    folder: str
    prefix: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything, for place_from_json."""
        return {"kind": self.kind, **asdict(self)}

    def open(self) -> Objects:
        """The store at this place; its folder is made when something is first written."""
        from blocks.storage.directory import DirectoryObjects

        return DirectoryObjects(self)


Place = S3Place | DirectoryPlace


def place_from_json(values: Mapping[str, Any]) -> Place:
    """The place that to_json wrote."""
    kinds = {place.kind: place for place in (S3Place, DirectoryPlace)}
    rest = {name: value for name, value in values.items() if name != "kind"}
    found = kinds.get(str(values.get("kind")))
    if found is None:
        raise Refused(f"a place is of kind {' or '.join(kinds)}, not {values.get('kind')!r}")
    return found(**rest)
