"""How releases come about on a stage: the sections [release] and [bake] of its TOML."""

import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from flows.stage_values import Duration, Section, Span, Word


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise ValueError(f"a command whose quotes are closed ({error})") from None


class Migrations(Section):
    """Commands of a checkout that ask for, list and run the service's migrations; exit codes, never texts, decide."""

    status: str = ""  # exit 0: none pending, 1: some are; any other code fails the gate
    listing: str = ""  # prints a JSON list of {version, breaking, rollback}, oldest first
    up: str = ""  # brings the schema to the checkout's version
    down: str = ""  # takes it back to the version given as the last word; offered to people, never run by itself
    compatible: tuple[Word, ...] = ()  # breaking ones that a person declared harmless for the release before

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.status or self.listing) and not (self.status and self.listing and self.up):
            raise ValueError("status, listing and up together, as each needs the others")
        return self


class Audit(Section):
    """How many known faults of dependencies a release may carry: at most this many of a severity."""

    command: str = ""  # prints npm's audit report (version 2), whatever its exit code
    critical: Annotated[int, Field(ge=0)] = 0
    high: Annotated[int, Field(ge=0)] = 0
    allow: dict[Word, datetime] = Field(default_factory=dict)  # a package, and until when its faults do not count

    @model_validator(mode="after")
    def _expires_at_a_time(self) -> Self:
        if naive := [name for name, until in self.allow.items() if until.tzinfo is None]:
            raise ValueError(f"a time with its zone, such as 2026-12-24T00:00:00Z, for {', '.join(naive)}")
        return self


class Freeze(Section):
    """A calendar window in which nothing is deployed."""

    begins: AwareDatetime
    ends: AwareDatetime
    reason: Word

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.ends <= self.begins:
            raise ValueError("ends later than begins")
        return self

    def holds(self, now: datetime) -> bool:
        """Whether `now` lies in it."""
        return self.begins <= now.astimezone(UTC) < self.ends


class Release(Section):
    """Where releases come from, what must be true before one goes live, and when one counts as stable."""

    platform: Literal["", "processes", "railway"] = ""
    branch: str = "main"
    github: Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9][\w.-]*/[\w.-]+$")] = ""  # OWNER/NAME; its checks vouch
    publish: bool = False  # a release that stays becomes one on GitHub, v7 with its notes
    health: str = "/health"
    endpoints: tuple[str, ...] = ()  # each answers 2xx or 401 before traffic, and is probed while it bakes
    version: Annotated[str, Field(pattern=r"^$|^(header|json) \S+$")] = ""  # "header NAME" or "json PATH" of the health
    smoke: str = ""  # run in a checkout, with the release's address in API_URL
    dependencies: tuple[Word, ...] = ("database",)  # "database" or a URL: what the service cannot do without
    commands: dict[Word, str] = Field(default_factory=dict)  # what CI can't vouch for, run in a clean checkout
    command_limit: Duration = timedelta(minutes=10)
    audit: Audit = Audit()
    migrations: Migrations = Migrations()
    freezes: tuple[Freeze, ...] = ()
    start_limit: Duration = timedelta(minutes=5)
    drain_limit: Duration = timedelta(seconds=30)
    stable_after: Duration = timedelta(hours=1)
    stable_error_percent: Annotated[float, Field(gt=0, le=100)] = 1.0
    rollback_pause: Span = timedelta(minutes=60)  # after a rollback; within it a second one names its release
    pardoned: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")], ...] = ()  # commits let out of quarantine
    proven_backup: bool = True  # before a deploy: taken, or named; false: none, and the plan warns of it

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        given = (self.smoke, self.audit.command, *self.commands.values())
        for command in (*given, *(getattr(self.migrations, each) for each in ("status", "listing", "up", "down"))):
            _words(command)
        if wrong := [each for each in (self.health, *self.endpoints) if not re.match(r"/[^\s]*$", each)]:
            raise ValueError(f'a path such as "/health", found {wrong[0]!r}')
        if self.publish and not self.github:
            raise ValueError("github, as publish makes its releases there")
        return self


class Bake(Section):
    """How long a new release is watched, what is tolerated, and what becomes of one that proved nothing."""

    look: Duration = timedelta(seconds=10)
    minimum: Duration = timedelta(minutes=10)
    maximum: Duration = timedelta(minutes=60)
    policy: Literal["extend", "hold", "accept", "rollback"] = "extend"
    profile: Literal["strict", "default", "fast"] = "default"
    healthy_error_percent: Annotated[float, Field(gt=0, lt=100)] = 2.0
    objective_error_percent: Annotated[float, Field(gt=0, lt=100)] = 1.0
    minimum_baseline: Annotated[int, Field(ge=1)] = 1000
    frozen_limit: Span = timedelta(seconds=420)

    @model_validator(mode="after")
    def _has_time_to_look(self) -> Self:
        if not self.look <= self.minimum <= self.maximum:
            raise ValueError("look <= minimum <= maximum")
        return self
