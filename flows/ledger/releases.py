"""What is remembered of releases: each with its gates, from when it served, every look of its bake; and quarantine.

A release's status is not stored: it is its operation's. Looks change nothing in the world and are not fenced, so that a
bake may run without an operation; a second write of the same look is none. Neither is the message that people read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from flows.ledger.line import Line
from flows.ledger.operation import Operation
from flows.records_release import Gate, Release, Told, Work

REMEMBER = """insert into ledger.release as r (key, at, commit, record, operation, token)
    values (%s, %s, %s, %s, %s, %s) on conflict (key) do update set record = excluded.record,
    operation = excluded.operation, token = excluded.token"""
TOLD = """select r.record as release, o.state, coalesce(o.reason, '') as why, b.live_at, o.ended_at
    from ledger.release r join ledger.operation o on o.key = r.key left join ledger.bake b on b.release = r.key
    order by o.id"""
GO_LIVE = """insert into ledger.bake (release, live_at, record, operation, token) values (%s, %s, %s, %s, %s)
    on conflict (release) do nothing"""
BAKE = "select live_at, record from ledger.bake where release = %s"
LOOK = "insert into ledger.look (release, at, record) values (%s, %s, %s) on conflict do nothing"
LOOKS = "select record from ledger.look where release = %s order by at"
GATE = """insert into ledger.gate (release, name, record) values (%s, %s, %s)
    on conflict (release, name) do update set record = excluded.record"""
GATES = "select record from ledger.gate where release = %s order by name"
NOTICE = """insert into ledger.notice (release, record) values (%s, %s)
    on conflict (release) do update set record = excluded.record"""
NOTICED = "select record from ledger.notice where release = %s"
WORK = """select r.key,
    (select count(*) from ledger.look l where l.release = r.key) as looks,
    (select coalesce(string_agg(s.name, ', ' order by s.position), '') from ledger.step s
        where s.operation = o.id) as steps,
    (select coalesce(jsonb_agg(g.record order by g.name), '[]') from ledger.gate g where g.release = r.key) as gates
    from ledger.release r join ledger.operation o on o.key = r.key"""
LIFT = "delete from ledger.quarantine where commit = %s and reason = %s"
QUARANTINE = "insert into ledger.quarantine (commit, reason) values (%s, %s) on conflict do nothing"
QUARANTINED = "select commit, reason from ledger.quarantine"


@dataclass(frozen=True)
class Releases:
    """The ledger's releases; `ledger.releases` makes it."""

    line: Line

    def remember(self, release: Release, op: Operation | None = None) -> None:
        """Write it, or write it again; fenced by the operation."""
        writer = [op.id, op.token] if op else [None, None]
        text = Jsonb(release.model_dump(mode="json"))
        self.line.ask(REMEMBER, [release.key, release.at, release.commit, text, *writer])

    def all(self) -> list[Told]:
        """Every release that is remembered, with what became of it, oldest first."""
        return [Told.model_validate(dict(row)) for row in self.line.ask(TOLD)]

    def go_live(self, release: str, at: datetime, record: dict[str, Any], op: Operation | None = None) -> None:
        """From when it serves, with the baseline that its bake compares with; what was written first stays."""
        writer = [op.id, op.token] if op else [None, None]
        self.line.ask(GO_LIVE, [release, at, Jsonb(record), *writer])

    def bake(self, release: str) -> tuple[datetime, dict[str, Any]] | None:
        """When it went live, and its baseline; None before that."""
        rows = self.line.ask(BAKE, [release])
        return (rows[0]["live_at"], rows[0]["record"]) if rows else None

    def add_look(self, release: str, at: float, record: dict[str, Any]) -> None:
        """Store a look that ends `at` seconds after the release went live; what was written first stays."""
        self.line.ask(LOOK, [release, at, Jsonb(record)])

    def looks(self, release: str) -> list[dict[str, Any]]:
        """All its looks, oldest first."""
        return [row["record"] for row in self.line.ask(LOOKS, [release])]

    def add_gates(self, release: str, gates: Sequence[Gate]) -> None:
        """What the gates found before it."""
        for gate in gates:
            self.line.ask(GATE, [release, gate.name, Jsonb(gate.model_dump(mode="json"))])

    def gates(self, release: str) -> list[Gate]:
        """The gates of a release."""
        return [Gate.model_validate(row["record"]) for row in self.line.ask(GATES, [release])]

    def work(self) -> dict[str, Work]:
        """What was done for each release, by its key."""
        rows = self.line.ask(WORK)
        return {row["key"]: Work.model_validate({name: row[name] for name in Work.model_fields}) for row in rows}

    def keep_notice(self, release: str, record: Mapping[str, object]) -> None:
        """The handle of the message that tells of it; a later one rules."""
        self.line.ask(NOTICE, [release, Jsonb(dict(record))])

    def notice(self, release: str) -> dict[str, str] | None:
        """That handle; None: nobody was told."""
        rows = self.line.ask(NOTICED, [release])
        return rows[0]["record"] if rows else None

    def quarantine(self, commit: str, reason: str) -> None:
        """Do not go back to this commit, and do not deploy it again; the first reason stays."""
        self.line.ask(QUARANTINE, [commit, reason])

    def lift(self, commit: str, reason: str) -> None:
        """Let it out of the quarantine that it came into for this very reason; another's stays."""
        self.line.ask(LIFT, [commit, reason])

    def quarantined(self) -> dict[str, str]:
        """Which commits are in quarantine, and why."""
        return {row["commit"]: row["reason"] for row in self.line.ask(QUARANTINED)}
