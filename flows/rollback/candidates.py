"""Decides where to go back to: which release served long and well enough, can be had again, and fits the schema.

Every candidate that is refused gets its reason, so that a person can overrule with `to=` what may be overruled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flows.records_release import SHORT, Migration, Release
from flows.words import duration


@dataclass(frozen=True)
class Known:
    """A release that once went live, with what is known of it today."""

    release: Release
    served_s: float
    n: int  # requests counted while it served
    errors: int
    kept: bool  # its process still runs in its slot, and is healthy
    can_build: bool  # its commit is still in the repository
    quarantine: str = ""  # why; empty: it is not

    @property
    def error_percent(self) -> float:
        """Of the counted requests; 0 where none were counted."""
        return 100 * self.errors / self.n if self.n else 0.0


@dataclass(frozen=True)
class Rules:
    """What counts as stable, and which breaking migrations a person declared harmless."""

    stable_after_s: float
    stable_error_percent: float
    compatible: tuple[str, ...] = ()
    down: str = ""  # the command that takes the schema back to the version given as its last word


@dataclass(frozen=True)
class Choice:
    """Where to go back to (None: nowhere), and why not to each of the others, newest first."""

    target: Known | None
    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The target, or that there is none and why."""
        if self.target is None:
            return f"there is nothing to go back to: {'; '.join(self.refused) or 'nothing served before'}"
        how = "its process is kept" if self.target.kept else "it is built again from its commit"
        return f"back to {self.target.release.name}, which served {duration(self.target.served_s)}: {how}"


def choose(known: Sequence[Known], current: Release | None, schema_now: str, rules: Rules, to: str = "") -> Choice:
    """The newest stable release, or the one that a person named; `known` is all that served, newest first.

    ValueError when `to` names none of them, or more than one.
    """
    others = [each for each in known if current is None or each.release.commit != current.commit]
    if to:
        return _named(_one(known, to), current, schema_now, rules)
    refused: list[str] = []
    for each in others:
        why = [*_unstable(each, rules), *_impossible(each, current, schema_now, rules)]
        if not why:
            return Choice(each, tuple(refused))
        refused.append(f"{each.release.name}: {', '.join(why)}")
    return Choice(None, tuple(refused))


def goes_too_far(current: Release, live_at: datetime | None, pause: timedelta, now: datetime) -> str:
    """Why no release is chosen where none is named; empty: one may be.

    What serves was brought by a rollback moments ago: if that did not help, a second one seldom does, and nothing may
    walk back through the history by itself.
    """
    if current.kind != "rollback" or live_at is None or now - live_at >= pause:
        return ""
    ago, limit = duration(now - live_at), duration(pause)
    return (
        f"{current.name} serves since a rollback {ago} ago, and no second one is chosen within {limit}"
        " (release.rollback_pause): if it did not help, the cause is elsewhere; to go back further name the release"
        " with to="
    )


def breaking_between(newer: Sequence[Migration], older: Sequence[Migration], compatible: Sequence[str]) -> list[str]:
    """The migrations that the older release does not know, can't work with, and that nobody declared harmless."""
    there = {each.version for each in older}
    return [m.version for m in newer if m.version not in there and m.breaking and m.version not in compatible]


def _named(target: Known, current: Release | None, schema_now: str, rules: Rules) -> Choice:
    if current and target.release.commit == current.commit:
        return Choice(None, (f"{target.release.name} is what serves now",))
    if why := list(_impossible(target, current, schema_now, rules)):
        return Choice(None, (f"{target.release.name}: {', '.join(why)}",))
    return Choice(target, warnings=tuple(f"{target.release.name}: {each}" for each in _unstable(target, rules)))


def _one(known: Sequence[Known], to: str) -> Known:
    found = [each for each in known if each.release.is_called(to)]
    commits = {each.release.commit for each in found}
    if len(commits) == 1:
        return found[0]
    served = ", ".join(each.release.name for each in known[:5]) or "none did"
    what = "more than one release" if commits else "no release that ever served"
    raise ValueError(f"to={to!r} names {what}: name one as v7 or by {SHORT} letters of its commit; served: {served}")


def _unstable(each: Known, rules: Rules) -> Iterator[str]:
    """What a person may overrule."""
    if each.quarantine:
        yield f"it is in quarantine ({each.quarantine})"
    if each.served_s < rules.stable_after_s:
        yield f"it served {duration(each.served_s)}, stable is {duration(rules.stable_after_s)}"
    if each.error_percent >= rules.stable_error_percent:
        limit = f"stable is {rules.stable_error_percent:g} %"
        yield f"{each.error_percent:.1f} % of its {each.n} answers were errors, {limit}"


def _impossible(each: Known, current: Release | None, schema_now: str, rules: Rules) -> Iterator[str]:
    """What nobody may."""
    if not (each.kept or each.can_build):
        yield "its process is gone and its commit is no longer in the repository"
    if current is None or (schema_now and schema_now == each.release.schema_after):
        return
    if broken := breaking_between(current.migrations, each.release.migrations, rules.compatible):
        down = rules.down and all(m.rollback for m in current.migrations if m.version in broken)
        last = each.release.migrations[-1].version if each.release.migrations else "0"
        offer = (
            f"their way down is declared, run it first: {rules.down} {last}"
            if down
            else "no way down is declared: go forward with a fix"
        )
        yield (
            f"it cannot work with the migrations {', '.join(broken)}: declare them in release.migrations.compatible"
            f" when that is wrong; {offer}"
        )
