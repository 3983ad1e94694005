"""Decides what a rollback will do: the choice and what was seen in, a plan with its reasons out."""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

from pydantic import JsonValue

from flows.records import Plan
from flows.records_release import SHORT, Migration, Release
from flows.rollback.candidates import Choice


class RollbackPlan(Plan):
    """Which release gets the traffic back, in which slot, instead of which one."""

    loose: ClassVar[frozenset[str]] = frozenset(
        {"reason", "how", "refused", "warnings", "at", "subject", "left_over"}  # what is kept may be ill now and then
    )

    stage: str
    key: str
    number: int
    commit: str
    subject: str
    slot: str
    left_slot: str
    previous: str
    taken_back: str  # the key of the release that loses the traffic
    blamed: str = ""  # its name where it comes into quarantine: not when a newer release gets the traffic
    left_over: str  # what runs in the slot and can't be used; empty: nothing
    migrations: tuple[Migration, ...]
    environment: tuple[str, ...]
    schema_now: str
    schema_known: str  # as it was when the target was deployed
    reason: str
    how: str
    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    at: datetime

    @property
    def sentence(self) -> str:
        """The plan in one sentence."""
        return f"rollback on {self.stage}: {self.how}; {self.reason}"

    @property
    def name(self) -> str:
        """`v7 (1a2b3c4d)`."""
        return f"v{self.number} ({self.commit[:SHORT]})"

    @property
    def shares(self) -> dict[str, JsonValue]:
        """The traffic afterwards."""
        return {self.slot: 100, self.left_slot: 0}

    @property
    def markdown(self) -> str:
        """The plan as a page; its sentence is shown above it."""
        facts = [("target", f"{self.commit}, {self.subject}"), ("slot", self.slot), ("reason", self.reason)]
        facts += [("quarantine", f"of {self.blamed}, once it has lost the traffic" if self.blamed else "of none")]
        parts = ["# Plan", "\n".join(["| what | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in facts)])]
        for title, lines in (("Worth knowing", self.warnings), ("Refused candidates", self.refused)):
            if lines:
                parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
        return "\n\n".join(parts)

    def release(self, operation: str, actor: str) -> Release:
        """The record of it."""
        return Release(
            key=operation, stage=self.stage, kind="rollback", number=self.number, commit=self.commit,
            subject=self.subject, slot=self.slot, previous=self.previous, at=self.at, actor=actor, reason=self.reason,
            environment=self.environment, migrations=self.migrations, schema_before=self.schema_now,
            schema_after=self.schema_known,
        )  # fmt: skip


def blame(name: str, actor: str, reason: str) -> str:
    """Why a release that was taken back is in quarantine."""
    return f"{name}: rolled back by {actor}: {reason}"


def plan_rollback(  # noqa: PLR0913, PLR0917 - what a plan is made of
    choice: Choice, current: Release, slots: Mapping[str, str], key: str, reason: str, schema: str, now: datetime
) -> RollbackPlan:
    """The plan of going back to the choice's target, whose process may be kept in its slot or is built there again.

    ValueError when the choice has no target: its sentence says why.
    """
    if choice.target is None:
        raise ValueError(choice.sentence)
    target = choice.target.release
    slot = next(each for each in slots if each != current.slot)
    there = slots.get(slot, "")
    return RollbackPlan(
        stage=target.stage,
        key=key,
        number=target.number,
        commit=target.commit,
        subject=target.subject,
        slot=slot,
        left_slot=current.slot,
        previous=current.commit,
        taken_back=current.key,
        blamed=current.name if target.number < current.number else "",
        left_over="" if choice.target.kept else there,
        migrations=target.migrations,
        environment=target.environment,
        schema_now=schema,
        schema_known=target.schema_after,
        reason=reason,
        how=choice.sentence,
        refused=choice.refused,
        warnings=choice.warnings,
        at=now,
    )
