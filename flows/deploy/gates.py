"""Decides what each gate says: the observation in, an answer with its reason out. All are asked, all are reported."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flows.deploy.plan import SLOTS, Seen
from flows.records import Backup, Proof
from flows.records_release import SHORT, Gate, Migration
from flows.rollback.candidates import breaking_between
from flows.stage_release import Audit, Freeze, Release
from flows.words import count, duration, moment
from flows.words import listed as listed_names

NONE_PENDING, PENDING = 0, 1  # what a migrations' status command exits with
SHORTEST_GRACE = timedelta(seconds=1)
SEVERITIES = ("critical", "high")
OWN_CHECKS = ("deploy production", "deploy staging")  # as deployments/ci/deploy.yml names its jobs
LIST = TypeAdapter(list[Migration])


def reachable(commit: str, branch: str, *, is_on_branch: bool) -> Gate:
    """The commit is on the stage's branch."""
    found = "is on" if is_on_branch else "is not reachable from"
    advice = "" if is_on_branch else ": merge it first, or deploy another"
    return Gate(name="branch", ok=is_on_branch, sentence=f"{commit[:SHORT]} {found} {branch}{advice}")


def not_quarantined(commit: str, quarantined: Mapping[str, str]) -> Gate:
    """No release that was taken back is deployed again."""
    why = quarantined.get(commit)
    advice = (
        f"{commit[:SHORT]} is in quarantine: {why}; deploy a commit that mends it, or name it in release.pardoned if it"
        " was not to blame"
    )
    return Gate(name="quarantine", ok=not why, sentence=advice if why else "not in quarantine")


def vouched(commit: str, checks: Sequence[tuple[str, str]]) -> Gate:
    """CI is green for the commit: every check (its name, and success, failure or pending) but the deploys themselves.

    A deploy that CI asks for is pending while this gate asks.
    """
    asked = [(name, state) for name, state in checks if name not in OWN_CHECKS]
    failed, pending = ([name for name, state in asked if state == which] for which in ("failure", "pending"))
    if failed or pending:
        parts = [f"{listed_names(failed)} failed"] if failed else []
        parts += [f"{listed_names(pending)} pending: wait for it"] if pending else []
        return Gate(name="CI", ok=False, sentence="; ".join(parts))
    none = f"nobody vouches for {commit[:SHORT]}: GitHub knows no check of it; push it to a branch that CI checks"
    return Gate(name="CI", ok=bool(asked), sentence=f"{count(len(asked), 'check')} passed" if asked else none)


def nobody_vouches() -> Gate:
    """Neither CI nor a command says anything about the commit."""
    sentence = "nobody vouches for the commit: neither release.github nor release.commands is declared"
    return Gate(name="CI", ok=True, warning=True, sentence=sentence)


def backup_is_left_out() -> Gate:
    """The stage's TOML wants none."""
    sentence = "no backup is taken (release.proven_backup = false): what a migration destroys is lost"
    return Gate(name="backup", ok=True, warning=True, sentence=sentence)


def environment(required: Sequence[str], present: Sequence[str]) -> Gate:
    """Every variable that the service needs is set, by name."""
    missing = [name for name in required if name not in present]
    found = f"all {len(required)} required variables are set" if required else "no variable is required"
    sentence = f"{', '.join(missing)} not set: set them and apply the stage" if missing else found
    return Gate(name="environment", ok=not missing, sentence=sentence)


def no_freeze(freezes: Sequence[Freeze], now: datetime) -> Gate:
    """No calendar window forbids it."""
    held = next((each for each in freezes if each.holds(now)), None)
    sentence = f"deploys are frozen until {moment(held.ends)}: {held.reason}" if held else "no deploy freeze"
    return Gate(name="freeze", ok=held is None, sentence=sentence)


def way_back(seen: Seen, migrations: Sequence[Migration], compatible: Sequence[str], *, is_known: bool) -> Gate:
    """What serves now can be gone back to: it is kept, and no known migration of this release breaks it."""
    if not seen.live_commit:
        first = "nothing serves yet: the first release has nothing to go back to"
        return Gate(name="way back", ok=True, warning=True, sentence=first)
    known = next((told.release for told in reversed(seen.releases) if told.release.commit == seen.live_commit), None)
    broken = breaking_between(migrations, known.migrations if known else (), compatible)
    if broken:
        sentence = (
            f"{', '.join(broken)} would break {seen.live_commit[:SHORT]}, which could not be gone back to: expand first"
            " and contract in a later release, or declare it in release.migrations.compatible"
        )
        return Gate(name="way back", ok=False, sentence=sentence)
    if seen.is_dead:
        dead = f"{seen.live_commit[:SHORT]} has the traffic and does not live: the new release stays, whatever is found"
        return Gate(name="way back", ok=True, warning=True, sentence=dead)
    later = "" if is_known else "; whether a migration breaks it is not asked in a dry run"
    sentence = f"{seen.live_commit[:SHORT]} stays in its slot, drained and running{later}"
    return Gate(name="way back", ok=True, sentence=sentence)


def platform(rules: Release, checked: Mapping[str, bool], grace: timedelta) -> Gate:
    """Two releases fit side by side, the balancer looks at both by itself, and a drained one has the time to end.

    `checked`: whether the balancer asks each slot for its health; `grace`: what the platform lets a release end in.
    """
    wrong = [f"the load balancer does not check {slot} by itself" for slot, is_so in checked.items() if not is_so]
    wrong += [f"the load balancer has no server for {slot}" for slot in SLOTS if slot not in checked]
    if grace < SHORTEST_GRACE:
        wrong += [f"a release has {duration(grace)} to end, at least {duration(SHORTEST_GRACE)} are wanted"]
    if wrong:
        return Gate(name="platform", ok=False, sentence=f"{'; '.join(wrong)}: mend it, or requests fail at the switch")
    if not rules.version:
        unknown = "release.version is not declared: the served version is unknown, and no rollback is automatic"
        return Gate(name="platform", ok=True, warning=True, sentence=unknown)
    drain = duration(rules.drain_limit)
    return Gate(name="platform", ok=True, sentence=f"both slots are checked at {rules.health}, drained within {drain}")


def command(name: str, code: int, last_words: str) -> Gate:
    """A declared command ended with 0."""
    return Gate(name=name, ok=code == 0, sentence=last_words if code == 0 else f"exit code {code}: {last_words}")


def migrations(code: int, last_words: str) -> tuple[Gate, bool]:
    """Whether some are pending, by the exit code alone; ValueError for any but 0 and 1."""
    if code not in (NONE_PENDING, PENDING):
        raise ValueError(
            f"the state of the migrations is unknown: exit code {code} of release.migrations.status means neither"
            f" pending (1) nor none (0): {last_words}"
        )
    pending = code == PENDING
    return Gate(name="migrations", ok=True, sentence="some are pending" if pending else "none pending"), pending


def listed(code: int, output: str, last_words: str) -> tuple[Migration, ...]:
    """The migrations that a listing printed; ValueError when it failed, or printed no such list."""
    if code:
        raise ValueError(f"the listing of the migrations failed with exit code {code}: {last_words}")
    try:
        return tuple(LIST.validate_json(output))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise ValueError(
            f"the listing is not JSON of [{{version, breaking, rollback}}]: {where}: {first['msg']}"
        ) from None


def audit(output: str, rules: Audit, now: datetime) -> Gate:
    """At most so many known faults of a severity, whatever the auditing tool exited with."""
    try:
        found: dict[str, Any] = json.loads(output)["vulnerabilities"]
        faults = {severity: [n for n, one in found.items() if one["severity"] == severity] for severity in SEVERITIES}
    except (ValueError, KeyError, TypeError, AttributeError):
        return Gate(name="audit", ok=False, sentence="its output is no audit report of npm (version 2, JSON)")
    allowed = {name for name, until in rules.allow.items() if now < until}
    counted = {severity: sorted(set(names) - allowed) for severity, names in faults.items()}
    over = [f"{len(names)} {s} ({', '.join(names)})" for s, names in counted.items() if len(names) > getattr(rules, s)]
    expired = [f"{name} was allowed until {moment(until)}" for name, until in rules.allow.items() if now >= until]
    sentence = "; ".join([*over, *expired]) if over else "within the budget"
    return Gate(name="audit", ok=not over, warning=not over and bool(allowed), sentence=sentence)


def backup_is_proven(named: str, found: Backup | None, proofs: Sequence[Proof], rpo: timedelta, now: datetime) -> Gate:
    """The named backup was proven, and is younger than the stage's RPO."""
    sentence, ok = f"{named} is not known to the ledger: name one that `catalogue` shows", False
    if found:
        age, proven = now - found.at, any(proof.verdict == "proven" for proof in proofs)
        sentence = (
            f"{named} is {'proven' if proven else 'not proven'} and {duration(age)} old, the RPO is {duration(rpo)}"
        )
        ok = proven and age <= rpo
    return Gate(name="backup", ok=ok, sentence=sentence)
