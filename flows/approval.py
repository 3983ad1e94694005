"""Decides whether a person's answer approves the plan that was shown: never another database, never another plan."""

from flows.verdict import Verdict

SEAL_LETTERS = 16  # of the digest: enough to tell two plans apart, short enough for the form


def seal_of(digest: str) -> str:
    """What stands in the form for a plan with this digest."""
    return digest[:SEAL_LETTERS]


def approves(named: str, sealed: str, *, database: str, digest: str) -> Verdict:
    """Whether the answer, a database's name and a plan's seal, is about this live database and the plan of now."""
    if named != database:
        return Verdict(
            go=False, reason=f"the approval names {named!r}, the live database is {database!r}: nothing was changed"
        )
    if sealed != seal_of(digest):
        return Verdict(
            go=False,
            reason="the world changed between the plan and its approval: nothing was changed; look at the new plan",
        )
    return Verdict(go=True, reason=f"{database} and the plan {sealed} are those that were shown")
