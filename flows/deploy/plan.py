"""Decides what a deploy will do and whether it may: what was seen in, a plan with every gate's answer out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from pydantic import JsonValue

from flows.records import Plan
from flows.records_release import SHORT, Gate, Migration, Release, Told
from flows.rollback.candidates import Choice
from flows.serving import serving
from flows.stage import Stage

SLOTS = ("blue", "green")
SHOWN_CHANGES = 50  # of a page; the release's notes have more
_PENDING = {
    True: "pending, run before the new release starts",
    False: "none pending",
    None: "not asked: a dry run runs no command",
}


@dataclass(frozen=True)
class Seen:
    """What was seen before a deploy."""

    commit: str  # whole
    subject: str
    slots: Mapping[str, str]  # slot -> the commit that lives in it; empty: nothing does
    shares: Mapping[str, int]  # slot -> its share of the traffic
    releases: tuple[Told, ...]  # oldest first
    environment: tuple[str, ...]
    changes: tuple[str, ...]  # subjects of the commits since what serves
    schema: str
    way_back: Choice
    now: datetime

    @property
    def unfinished(self) -> str:
        """The key of a deploy of this commit that a dead run left acting; empty: there is none."""
        return self._left.key if self._left else ""

    @property
    def number(self) -> int:
        """Of this release: the one that it has already, or the next."""
        return self._left.number if self._left else 1 + max((told.release.number for told in self.releases), default=0)

    @property
    def name(self) -> str:
        """`v7 (1a2b3c4d)`."""
        return f"v{self.number} ({self.commit[:SHORT]})"

    @property
    def live_slot(self) -> str:
        """The slot that has the traffic, of a release that lives or died in it; empty: nothing served yet."""
        having = next((slot for slot, share in self.shares.items() if share), "")
        return having if self.slots.get(having) or self._served else ""

    @property
    def live_commit(self) -> str:
        """The commit that serves, or should: its process may have died; empty: none."""
        known = self._served.commit if self._served else ""
        return self.slots.get(self.live_slot, "") or (known if self.live_slot else "")

    @property
    def is_dead(self) -> bool:
        """Whether what should serve does not live."""
        return bool(self.live_slot) and not self.slots.get(self.live_slot)

    @property
    def _served(self) -> Release | None:
        return serving(self.releases, self.now)

    @property
    def _left(self) -> Release | None:
        left = (told.release for told in self.releases if told.open and told.release.kind == "deploy")
        return next((release for release in left if release.commit == self.commit), None)


class DeployPlan(Plan):
    """Which commit goes live in which slot instead of which one, and what was asked before."""

    loose: ClassVar[frozenset[str]] = frozenset({"subject", "gates", "changes", "backup", "way_back", "refused", "at"})

    stage: str
    database: str
    key: str
    number: int
    commit: str
    subject: str
    slot: str
    left_slot: str  # the one that serves now; empty: none
    previous: str  # its commit
    way_back_lives: bool = False  # its process did when the plan was made
    left_over: str  # what an earlier release left in the new slot
    environment: tuple[str, ...]
    migrations: tuple[Migration, ...] = ()
    pending: bool | None = False  # None: not asked
    schema_before: str = ""
    gates: tuple[Gate, ...] = ()
    changes: tuple[str, ...] = ()
    backup: str = ""
    way_back: str = ""
    refused: tuple[str, ...] = ()
    at: datetime

    @property
    def name(self) -> str:
        """`v7 (1a2b3c4d)`."""
        return f"v{self.number} ({self.commit[:SHORT]})"

    @property
    def is_one_way(self) -> bool:
        """Whether there is nothing that the traffic could be given back to: what should serve is dead."""
        return bool(self.left_slot) and not self.way_back_lives

    @property
    def sentence(self) -> str:
        """The plan in one sentence."""
        instead = f" instead of {self.previous[:SHORT]}" if self.previous else ", the first release"
        return f"deploy {self.name} to {self.stage}{instead}: {self.subject}"

    @property
    def shares(self) -> dict[str, JsonValue]:
        """The traffic once it is live."""
        return {slot: 100 if slot == self.slot else 0 for slot in SLOTS}

    @property
    def refusals(self) -> tuple[str, ...]:
        """What stands in the way."""
        return tuple(f"{gate.name}: {gate.sentence}" for gate in self.gates if not gate.ok)

    @property
    def markdown(self) -> str:
        """The plan as a page; its sentence is shown above it."""
        facts = [("commit", f"{self.commit}, {self.subject}"), ("slot", self.slot)]
        facts += [("backup", self.backup), ("way back", self.way_back)]
        facts += [("migrations", _PENDING[self.pending])]
        parts = ["# Plan", "\n".join(["| what | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in facts)])]
        marks = {(True, False): "passed", (True, True): "**passed, with a warning**", (False, False): "**refused**"}
        rows = [
            f"| {g.name} | {marks.get((g.ok, g.warning), '**refused**')} | {g.sentence} | {g.seconds:.1f} s |"
            for g in self.gates
        ]
        parts += ["## Gates", "\n".join(["| gate | | | took |", "| --- | --- | --- | ---: |", *rows])]
        more = len(self.changes) - SHOWN_CHANGES
        changes = (*self.changes[:SHOWN_CHANGES], *([f"and {more} more"] if more > 0 else []))
        for title, lines in (("Changes", changes), ("Not gone back to", self.refused)):
            if lines:
                parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
        return "\n\n".join(parts)

    def release(self, operation: str, actor: str) -> Release:
        """The record of it."""
        return Release(
            key=operation, stage=self.stage, kind="deploy", number=self.number, commit=self.commit,
            subject=self.subject, slot=self.slot, previous=self.previous, at=self.at, actor=actor,
            environment=self.environment, migrations=self.migrations, schema_before=self.schema_before,
            schema_after=self.schema_before,
        )  # fmt: skip


def plan_deploy(  # noqa: PLR0913, PLR0917 - what a plan is made of
    stage: Stage,
    seen: Seen,
    gates: Sequence[Gate],
    migrations: Sequence[Migration],
    pending: bool | None,
    backup: str,
) -> DeployPlan:
    """The plan of one deploy; its key counts the attempts at this commit, as a key is used up by its first one."""
    slot = next(each for each in SLOTS if each != seen.live_slot)
    attempts = [told for told in seen.releases if told.release.commit == seen.commit and told.release.kind == "deploy"]
    return DeployPlan(
        stage=stage.name,
        database=stage.database.name,
        key=seen.unfinished or f"deploy {seen.commit} {len(attempts) + 1}",
        number=seen.number,
        commit=seen.commit,
        subject=seen.subject,
        slot=slot,
        left_slot=seen.live_slot,
        previous=seen.live_commit,
        way_back_lives=bool(seen.live_slot) and not seen.is_dead,
        left_over=seen.slots.get(slot, ""),
        environment=seen.environment,
        migrations=tuple(migrations),
        pending=pending,
        schema_before=seen.schema,
        gates=tuple(gates),
        changes=seen.changes,
        backup=backup,
        way_back=seen.way_back.sentence,
        refused=seen.way_back.refused,
        at=seen.now,
    )
