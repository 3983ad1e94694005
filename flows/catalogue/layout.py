"""Where a backup's objects lie in the store, and whose a key is. Decides by names alone; never lists or deletes.

    <prefix>/<stage>/<service>/<database>/<backup id>/schema.pgc.zst.age ... manifest.json, its .sig, proofs

Keys here are relative to the store's prefix. Only what matches this layout is ever ours; all else is foreign, is shown
as such and never touched.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args
from urllib.parse import quote

from flows.records import is_id
from flows.stage import Stage

MANIFEST = "manifest.json"
Role = Literal["schema", "globals", "catalogue", "blobs", "provider", "data"]
ROLES: tuple[Role, ...] = get_args(Role)

_OBJECTS: dict[str, Role] = {
    "schema.pgc.zst.age": "schema",
    "globals.sql.zst.age": "globals",
    "catalogue.txt.zst.age": "catalogue",
    "blobs.pgc.zst.age": "blobs",
    "provider.json.zst.age": "provider",
}
_DATA = re.compile(r"data/(\d{5,})\.[^/\x00-\x1f\x7f]+\.copy\.zst\.age")
_PROOF = re.compile(r"proof-\d{8}T\d{6}Z\.json")


def signature_of(key: str) -> str:
    """The key of the signature beside a manifest or proof."""
    return key + ".sig"


def proof_key(at: datetime) -> str:
    """The key, in a backup's folder, of a proof that ended at `at`."""
    return f"proof-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"


def role_of(name: str) -> Role | None:
    """What an object of a backup holds, by its name in the folder; None for manifests, proofs and names not ours."""
    return _OBJECTS.get(name) or ("data" if _DATA.fullmatch(name) else None)


@dataclass(frozen=True)
class Home:
    """The folder of all backups of one database."""

    stage: str
    service: str
    database: str

    @property
    def folder(self) -> str:
        """Its key in the store, ending with a slash."""
        return "".join(_segment(name) + "/" for name in (self.stage, self.service, self.database))

    def of(self, backup: str) -> str:
        """The folder of one backup, ending with a slash."""
        return f"{self.folder}{backup}/"

    def full(self, store_prefix: str, backup: str) -> str:
        """The folder as the manifest names it: with the store's own prefix."""
        outer = store_prefix.strip("/")
        return f"{outer}/{self.of(backup)}" if outer else self.of(backup)

    def owner(self, key: str) -> str | None:
        """The id of the backup that a key belongs to, or None where the key is foreign to this home."""
        backup, slash, name = key.removeprefix(self.folder).partition("/")
        if not key.startswith(self.folder) or not slash or not is_id(backup) or not _is_ours(name):
            return None
        return backup


def home_of(stage: Stage) -> Home:
    """Where the backups of a stage's database lie."""
    return Home(stage.name, stage.service.name, stage.database.name)


@dataclass(frozen=True)
class Seen:
    """One key as the store listed it."""

    key: str
    modified: datetime


@dataclass(frozen=True)
class Shelf:
    """All keys of a home, sorted by whose they are. `backups` and `orphans`: keys by backup id."""

    backups: dict[str, tuple[str, ...]]  # with a manifest: they exist
    growing: dict[str, tuple[str, ...]]  # without one, but young, or about to be committed: perhaps being written
    orphans: dict[str, tuple[str, ...]]  # without one and older: may be swept
    foreign: tuple[str, ...]  # never touched


def sort_keys(
    seen: Iterable[Seen], home: Home, *, grace: timedelta, now: datetime, committing: Collection[str] = ()
) -> Shelf:
    """Sort what the store listed; an orphan's every key is older than `grace`, more than a snapshot may last.

    `committing`: ids whose manifest an open operation still has to put; they are no orphans, however old.
    """
    folders: dict[str, list[Seen]] = {}
    foreign: list[str] = []
    for one in seen:
        owner = home.owner(one.key)
        if owner is None:
            foreign.append(one.key)
        else:
            folders.setdefault(owner, []).append(one)
    backups: dict[str, tuple[str, ...]] = {}
    growing: dict[str, tuple[str, ...]] = {}
    orphans: dict[str, tuple[str, ...]] = {}
    for backup, inside in sorted(folders.items()):
        keys = tuple(sorted(one.key for one in inside))
        if home.of(backup) + MANIFEST in keys:
            backups[backup] = keys
        elif backup not in committing and all(one.modified < now - grace for one in inside):
            orphans[backup] = keys
        else:
            growing[backup] = keys
    return Shelf(backups, growing, orphans, tuple(sorted(foreign)))


def _segment(name: str) -> str:
    """One folder's name: two databases never share a home, and none climbs out of it."""
    escaped = quote(name, safe="")
    return escaped.replace(".", "%2E") if not escaped.strip(".") else escaped


def _is_ours(name: str) -> bool:
    paper = name.removesuffix(".sig")
    return paper == MANIFEST or _PROOF.fullmatch(paper) is not None or role_of(name) is not None
