"""The notes of a release that stays, in Markdown for GitHub: what came, what it changes, how it was proven. Pure.

A variable is told by its name, never by its value. A commit's subject is a text of others: nothing in it is Markdown.
"""

import re
from collections.abc import Sequence

from flows.records_release import Migration, Release
from flows.words import count, moment

MOST_COMMITS = 200
MOST_OF_A_SUBJECT = 200  # characters: 200 of each stay far below the 125 000 that GitHub takes
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~&]|^[#+-])")


def tag(release: Release) -> str:
    """`v7`: the release's number, which counts the stage's deploys."""
    return f"v{release.number}"


def title(release: Release) -> str:
    """`Release 7`, as the original design calls it."""
    return f"Release {release.number}"


def notes(release: Release, before: Release | None, changes: Sequence[str], evidence: str) -> str:
    """The page: commits (subjects, newest first), migrations and variables against the release before, the evidence.

    `evidence` is the sentence of the bake.
    """
    return "\n\n".join([
        f"Deployed to {release.stage} by {_plain(release.actor)} at {moment(release.at)}, commit {release.commit}.",
        f"**Evidence:** {_plain(evidence)}",
        f"## Commits\n\n{_commits(changes)}",
        f"## Migrations\n\n{_migrations(release, before)}",
        f"## Environment\n\n{_environment(release, before)}",
    ])  # fmt: skip


def _commits(changes: Sequence[str]) -> str:
    if not changes:
        return "No other commits than this one are known."
    lines = [f"- {_plain(_short(subject))}" for subject in changes[:MOST_COMMITS]]
    left = len(changes) - MOST_COMMITS
    return "\n".join([*lines, f"- and {count(left, 'commit')} more"] if left > 0 else lines)


def _migrations(release: Release, before: Release | None) -> str:
    known = {migration.version for migration in before.migrations} if before else set[str]()
    new = [migration for migration in release.migrations if migration.version not in known]
    return "\n".join(map(_migration, new)) or "None."


def _migration(migration: Migration) -> str:
    breaking = " **breaking**: the release before can not work with the schema after it" if migration.breaking else ""
    return f"- {_plain(migration.version)}{breaking}{'' if migration.rollback else ' (no way down)'}"


def _environment(release: Release, before: Release | None) -> str:
    if before is None:
        return f"The first release, with {count(len(release.environment), 'variable')}."
    now, then = set(release.environment), set(before.environment)
    told = [("added", sorted(now - then)), ("removed", sorted(then - now))]
    lines = [f"- {what}: {', '.join(map(_plain, names))}" for what, names in told if names]
    return "\n".join(lines) or "The same variables as before."


def _short(text: str) -> str:
    return text if len(text) <= MOST_OF_A_SUBJECT else f"{text[: MOST_OF_A_SUBJECT - 1]}…"


def _plain(text: str) -> str:
    """One line in which nothing formats, links or hides; `#12` still leads to its issue."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
