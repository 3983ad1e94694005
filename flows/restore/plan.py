"""Decides what a restore will do and whether it may: the backup and the target in, a plan with reasons out.

A restore always makes a new database; the only thing that ever touches a live one is the swap, and that is two renames.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flows.catalogue.manifest import Manifest
from flows.records import Grade, Plan
from flows.words import count, duration, listed, moment, size

NAME_BYTES = 63  # Postgres cuts longer names
SPACE_FACTOR = 1.3
POLICIES_UNKNOWN = (
    ", but a policy that names one of them would stop the restore at its end: create them first (nologin)"
)
UNMEASURED = (2.0, 4.0)  # a first restore takes this many times as long as its dump


@dataclass(frozen=True)
class Target:
    """What was seen at the server that a backup is brought back to."""

    server: str
    version_num: int
    databases: tuple[str, ...]
    ours: bool  # the new database exists and is this very restore's own
    can_create: bool
    can_rename: str | None  # why the live database can't be renamed; None: it can
    cant_set: tuple[str, ...]  # the live database's settings that the role can't give to the new one
    extensions: tuple[str, ...]
    roles: tuple[str, ...]
    collation_version: str | None
    free_bytes: int | None
    client_major: int


@dataclass(frozen=True)
class Names:
    """What a restore makes and what its swap renames; `swap` and `old` are empty where none is wanted."""

    server_block: str  # empty: the stage's own server
    new: str
    swap: str = ""  # the live database's name, typed out
    old: str = ""  # the name that it gets

    @classmethod
    def of(cls, manifest: Manifest, into: str, swap: str, key: str) -> "Names":
        """From what was asked for: `into` is empty, NAME, BLOCK: or BLOCK:NAME."""
        block, _, name = into.rpartition(":")
        new = name or new_name(manifest.database.name, manifest.id, key)
        return cls(block, new, swap, new_name(swap, manifest.id, key, "before") if swap else "")


@dataclass(frozen=True)
class Chosen:
    """The backup that was chosen: its manifest with the sha256 of the stored bytes, its folder, what it is worth."""

    manifest: Manifest
    manifest_sha256: str
    folder: str
    grade: tuple[Grade, str]


class RestorePlan(Plan):
    """Which backup goes into which new database, what is missing there, and what a swap would rename."""

    loose: ClassVar[frozenset[str]] = frozenset({"seconds_low", "seconds_high", "warnings", "refusals", "grade"})

    stage: str
    backup: str
    folder: str  # in the store, relative to the store's prefix
    manifest_sha256: str
    server_block: str  # empty: the stage's own server
    facts: dict[str, Any]  # encoding and collation of the new database
    database: str
    kept_until: str
    grade: str
    server: str
    new: str
    swap: str
    old: str
    size_bytes: int
    tables: int
    rows: int
    seconds_low: float
    seconds_high: float
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The plan in one sentence."""
        swap = f" and swap it in as {self.swap}" if self.swap else ""
        return f"restore {self.backup} into {self.new}{swap}"

    @property
    def question(self) -> str:
        """What a person approves; short, as Prefect's form leaves ten lines for it."""
        what = (
            f"**{self.swap}** is renamed to **{self.old}** and stays, closed; **{self.new}** is renamed to"
            f" **{self.swap}**. It holds backup {self.backup}, {self.grade}, {count(self.rows, 'row')}: what was"
            f" written after {self.kept_until} is missing."
        )
        return "\n".join([what, "", *(f"- {line}" for line in self.warnings)]).strip()

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in order, by the names that tasks and journal give it."""
        fill = (f"create {self.new}", f"load and compare {self.backup}", f"mark {self.new}")
        if not self.swap:
            return fill
        ask = f"ask who approves that {self.swap} is swapped out"
        return (*fill, ask, f"rename {self.new} to {self.swap}", f"close {self.old}")

    @property
    def markdown(self) -> str:
        """The plan as a page; its sentence is shown above it."""
        low, high = duration(self.seconds_low), duration(self.seconds_high)
        length = low if low == high else f"{low} to {high}"
        what = f"{count(self.tables, 'table')}, {count(self.rows, 'row')}, {size(self.size_bytes)}"
        facts = [
            ("backup", self.backup),
            ("its state", self.kept_until),
            ("its worth", self.grade),
            ("it holds", what),
            ("new database", f"{self.new} on {self.server}"),
            ("takes about", length),
        ]
        if self.swap:
            facts += [("then, once approved,", f"{self.swap} is renamed to {self.old}, {self.new} to {self.swap}")]
        table = [f"| {name} | {value} |" for name, value in facts]
        steps = [f"{number}. {step}" for number, step in enumerate(self.steps, 1)]
        parts = ["# Plan", "\n".join(["| what | |", "| --- | --- |", *table]), "## Steps", "\n".join(steps)]
        for title, lines in (("Stands in the way", self.refusals), ("Worth knowing", self.warnings)):
            if lines:
                parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
        return "\n\n".join(parts)


def new_name(database: str, backup: str, key: str, word: str = "restore") -> str:
    """`app_restore_k3v9q2`: the same for the same backup and key, so that a run started again finds its own."""
    mark = base64.b32encode(hashlib.sha256(f"{backup} {key}".encode()).digest()).decode().lower()[:6]
    tail = f"_{word}_{mark}"
    return _cut(database, NAME_BYTES - len(tail)) + tail


def mark_of(backup: str, operation: int | None) -> str:
    """The comment on a whole restored database."""
    return f"shipkeeper: restored {backup}, verified" + (f", operation {operation}" if operation else "")


def plan_restore(chosen: Chosen, names: Names, target: Target, rates: Sequence[float]) -> RestorePlan:
    """The plan of one restore.

    Args:
        chosen: the backup, its signature checked.
        names: the databases to be made and renamed.
        target: what was seen at the server.
        rates: stored bytes a second of this database's last restores and proofs.
    """
    manifest, grade = chosen.manifest, chosen.grade
    low, high = _expected(manifest, rates)
    return RestorePlan(
        stage=manifest.stage,
        backup=manifest.id,
        folder=chosen.folder,
        manifest_sha256=chosen.manifest_sha256,
        server_block=names.server_block,
        facts=manifest.database.model_dump(),
        database=manifest.database.name,
        kept_until=moment(manifest.snapshot.time),
        grade=grade[1] if grade[1].startswith(grade[0]) else f"{grade[0]} ({grade[1]})",
        server=target.server,
        new=names.new,
        swap=names.swap,
        old=names.old,
        size_bytes=manifest.database.size_bytes,
        tables=manifest.totals.tables,
        rows=manifest.totals.rows,
        seconds_low=low,
        seconds_high=high,
        warnings=tuple(_warnings(manifest, target, grade[0])),
        refusals=(*_refusals(manifest, target, names.new), *_swap_refusals(manifest, target, names.swap)),
    )


def _refusals(manifest: Manifest, target: Target, new: str) -> list[str]:
    lines: list[str] = []
    major, wanted = target.version_num // 10000, manifest.database.server_version_num // 10000
    if new in target.databases and not target.ours:
        lines.append(f"database {new} exists already on {target.server}: name another with into=, or drop it by hand")
    if len(new.encode()) > NAME_BYTES:
        lines.append(f"{new!r} is longer than {NAME_BYTES} bytes, and Postgres would cut it: name a shorter one")
    if not target.can_create:
        lines.append("the role may not create databases there: grant it CREATEDB")
    if major < wanted:
        lines.append(
            f"the server is Postgres {major}, the backup was taken from {wanted}: a restore never goes back a major"
        )
    if target.client_major < wanted:
        lines.append(f"the client tools here are of Postgres {target.client_major}, the backup needs {wanted}")
    lacks = [e.name for e in manifest.extensions if e.name not in target.extensions]
    if lacks:
        lines.append(f"the server lacks the extensions {listed(lacks)}: install them there first")
    lines += [
        f"schema {schema} was left out of this backup, and on it hang {listed(names, 20)}: take a backup with it in,"
        " or restore by hand without them (docs/runbooks/restore.md)"
        for schema, names in manifest.dependents.items()
    ]
    nobody = [role for role in manifest.policy_roles or () if role not in target.roles]
    if nobody:
        named = f"policies name roles that are missing there: {listed(nobody)}"
        lines.append(f"{named}; create them first (create role NAME nologin)")
    need = round(manifest.database.size_bytes * SPACE_FACTOR)
    if not target.ours and target.free_bytes is not None and target.free_bytes < need:  # ours is filled already
        lines.append(f"{size(target.free_bytes)} are free there, {size(need)} are needed")
    return lines


def _swap_refusals(manifest: Manifest, target: Target, swap: str) -> list[str]:
    if not swap:
        return []
    if swap != manifest.database.name:
        return [f"swap names {swap!r}, the backup is of {manifest.database.name!r}: type the live database's name"]
    if swap not in target.databases:
        return [f"{target.server} has no database {swap!r} to swap out: restore into={swap} instead"]
    if target.can_rename:
        sentence = f"{swap} can't be renamed: {target.can_rename}"
        return [f"{sentence}. What works: restore without swap= and point DATABASE_URL at the new database"]
    if target.cant_set:
        sentence = f"the role may not set {listed(target.cant_set)} on the new database, as the live one has it"
        how = "grant it SET on the parameter (of another role's setting: CREATEROLE, and admin of that role)"
        return [f"{sentence}: {how}, or restore without swap= and point DATABASE_URL at the new database"]
    return []


def _warnings(manifest: Manifest, target: Target, grade: Grade) -> list[str]:
    lines: list[str] = []
    if grade != "proven":
        lines.append(f"this backup is {grade}: the restore compares it with its manifest all the same")
    if target.free_bytes is None:
        need = size(manifest.database.size_bytes * SPACE_FACTOR)
        lines.append(f"how much space is free there can't be asked from here: about {need} are needed")
    missing = [role for role in manifest.roles if role not in target.roles]
    if missing:
        lines.append(
            f"roles missing there: {listed(missing)}; owners and grants are not restored in any case"
            + (POLICIES_UNKNOWN if manifest.policy_roles is None else "")
        )
    was = manifest.database.collation_version
    if was and target.collation_version and was != target.collation_version:
        lines.append(
            f"collation version {target.collation_version} there, {was} in the backup: text indexes are built anew"
        )
    lines += [f"not in it: {line}" for line in manifest.left_out]
    lines += [f"not in it: {e.what} of {e.schema_}.{e.name} (excluded by {e.rule})" for e in manifest.excluded]
    return lines


def _expected(manifest: Manifest, rates: Sequence[float]) -> tuple[float, float]:
    if rates:
        return manifest.totals.stored_bytes / max(rates), manifest.totals.stored_bytes / min(rates)
    took = max((manifest.finished - manifest.started).total_seconds(), 1.0)
    return took * UNMEASURED[0], took * UNMEASURED[1]


def _cut(text: str, size_bytes: int) -> str:
    return text.encode()[:size_bytes].decode(errors="ignore")
