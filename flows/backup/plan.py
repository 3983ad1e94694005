"""Decides what a backup will take and whether it may start: the survey of the database in, a plan with reasons out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from flows.records import Backup, Kind, Plan
from flows.stage import Stage
from flows.words import count, duration, listed, size

NEEDS_LEDGER: frozenset[Kind] = frozenset({"before-deploy"})


class BackupPlan(Plan):
    """What will be taken from where, what is left out and why, and what stands in the way."""

    loose: ClassVar[frozenset[str]] = frozenset({"expected_seconds", "size_bytes", "warnings"})

    stage: str
    service: str
    database: str
    kind: Kind
    server: str
    tables: int
    size_bytes: int
    excluded: tuple[str, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]
    expected_seconds: float | None
    proof: str  # the policy for this kind

    @property
    def sentence(self) -> str:
        """The plan in one sentence."""
        length = f", about {duration(self.expected_seconds)}" if self.expected_seconds else ""
        what = f"{count(self.tables, 'table')}, {size(self.size_bytes)} on {self.server}"
        return f"{self.kind} backup of {self.database}: {what}{length}"

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in order; the id that names the commit is known once the snapshot is taken."""
        store = (f"dump {self.database}", "commit its signed manifest")
        ask = f"ask for its proof, or say how to, where the policy wants one: {self.proof}"
        return store if self.proof == "never" else (*store, ask)

    @property
    def markdown(self) -> str:
        """The plan as a page; its sentence is shown above it."""
        what = f"{count(self.tables, 'table')}, {size(self.size_bytes)} on {self.server}"
        length = duration(self.expected_seconds) if self.expected_seconds else "not known before the first one"
        facts = [("database", self.database), ("kind", self.kind), ("it holds", what), ("takes about", length)]
        table = [f"| {name} | {value} |" for name, value in facts]
        steps = [f"{number}. {step}" for number, step in enumerate(self.steps, 1)]
        rows = ["# Plan", "\n".join(["| what | |", "| --- | --- |", *table]), "## Steps", "\n".join(steps)]
        for title, lines in (
            ("Stands in the way", self.refusals),
            ("Worth knowing", self.warnings),
            ("Excluded by the stage's TOML", self.excluded),
            ("Left out, as a dump cannot hold it", self.left_out),
        ):
            if lines:
                rows += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
        return "\n\n".join(rows)


@dataclass(frozen=True)
class Remembered:
    """What the ledger knows: earlier backups (newest first), who holds the database now; or why it is silent."""

    history: Sequence[Backup] = ()
    holders: Sequence[str] = ()
    trouble: str | None = None


def plan_backup(
    stage: Stage, kind: Kind, survey: Mapping[str, Any], known: Remembered, tools_trouble: str | None
) -> BackupPlan:
    """The plan of one backup.

    Args:
        stage: what is operated, with its exclusions.
        kind: which kind of backup is asked for.
        survey: the look at the database (fields of blocks.postgres.snapshot.Survey as a mapping).
        known: earlier backups for the expected length, holders of the database, a silent ledger.
        tools_trouble: why no client tools here can dump this server; None: they can.
    """
    database = survey["database"]
    version = divmod(int(database["server_version_num"]), 10000)
    return BackupPlan(
        stage=stage.name,
        service=stage.service.name,
        database=database["name"],
        kind=kind,
        server=f"Postgres {version[0]}.{version[1]}",
        tables=len(survey["tables"]),
        size_bytes=database["size_bytes"],
        excluded=tuple(_excluded(each) for each in survey["excluded"]),
        left_out=tuple(survey["left_out"]),
        warnings=tuple(_warnings(survey, kind, known.trouble)),
        refusals=tuple(_refusals(survey, kind, known, tools_trouble)),
        expected_seconds=_expected(known.history),
        proof=stage.backup.policy(kind),
    )


def _excluded(one: Mapping[str, Any]) -> str:
    rows = one.get("rows_estimate") or 0
    return f"{one['what']} of {one['schema']}.{one['name']} (about {count(int(rows), 'row')}): matches {one['rule']}"


def _warnings(survey: Mapping[str, Any], kind: Kind, ledger_trouble: str | None) -> list[str]:
    lines = [f"open transaction: {line}" for line in survey["long_transactions"]]
    if ledger_trouble and kind not in NEEDS_LEDGER:
        lines.append(f"runs without the ledger, so that nothing keeps a second one out: {ledger_trouble}")
    lines += [
        f"on schema {schema}, which is left out, hang {listed(names)}: a restore will refuse this backup; take it in,"
        " in the stage's TOML, or drop them"
        for schema, names in survey["dependents"].items()
    ]
    if survey["standby"]:
        lines.append("taken from a standby: rows committed on the primary after its replay position are not in it")
    return lines


def _refusals(survey: Mapping[str, Any], kind: Kind, known: Remembered, tools_trouble: str | None) -> list[str]:
    lines = [f"the database is held: {line}" for line in known.holders]
    if tools_trouble:
        lines.append(tools_trouble)
    if survey["missing_rights"]:
        rights = listed(tuple(survey["missing_rights"]))
        ways = "grant it that (pg_read_all_data gives select on all), or exclude the table in the stage's TOML"
        lines.append(f"the backup's role lacks {rights}: {ways}")
    if known.trouble and kind in NEEDS_LEDGER:
        lines.append(f"a {kind} backup needs the ledger: {known.trouble}")
    return lines


def _expected(history: Sequence[Backup]) -> float | None:
    lengths = [(b.finished - b.started).total_seconds() for b in history if b.state == "complete" and b.finished]
    return median(lengths[:10]) if lengths else None
