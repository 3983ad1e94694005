"""What we remember of releases: what was deployed and how it came out. A release's status is its operation's."""

from typing import Literal

from flows.records import Record, Utc

SHORT = 8  # letters of a commit that people read


class Migration(Record):
    """One of the service's migrations, as its listing command says; the names are the original design's."""

    version: str
    breaking: bool = False  # the release before it can't work with the schema after it
    rollback: bool = False  # whether there is a way down


class Gate(Record):
    """What one gate found."""

    name: str
    ok: bool
    sentence: str
    seconds: float = 0.0
    warning: bool = False  # it passed, and a person should know


class Release(Record):
    """One release of a stage: which commit, in which slot, instead of which one."""

    key: str  # its operation's
    stage: str
    kind: Literal["deploy", "rollback"]
    number: int  # counts the stage's deploys: people say v7
    commit: str
    subject: str
    slot: str
    previous: str = ""  # the commit that served before; empty: none
    at: Utc
    actor: str
    reason: str = ""
    environment: tuple[str, ...] = ()  # names of the variables that it was started with, never a value
    migrations: tuple[Migration, ...] = ()  # all that its checkout knows
    schema_before: str = ""  # fingerprints of the database's schema; empty: none was read
    schema_after: str = ""

    @property
    def name(self) -> str:
        """`v7 (1a2b3c4d)`."""
        return f"v{self.number} ({self.commit[:SHORT]})"

    def is_called(self, name: str) -> bool:
        """Whether a person means it: `v7`, or the first letters of its commit."""
        return f"v{self.number}" == name or self.commit.startswith(name)


class Told(Record):
    """A release with what became of it."""

    release: Release
    state: str  # of its operation: acting, committed, done, undoing, undone
    why: str = ""  # the operation's reason
    live_at: Utc | None = None
    ended_at: Utc | None = None

    @property
    def open(self) -> bool:
        """Whether its operation is not settled."""
        return self.ended_at is None


class Work(Record):
    """What was done for a release: what its gates found, how often it was looked at, which steps were journalled."""

    gates: tuple[Gate, ...]
    looks: int
    steps: str  # their names; the journal keeps them for 90 days
