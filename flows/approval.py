"""Decides whether a person's answer approves the plan that was shown: never another database, never another plan."""

from flows.verdict import Verdict

LETTERS = 16  # of the digest: enough to tell two plans apart, short enough for the form


def in_form(digest: str) -> str:
    """What stands in the form for a plan with this digest."""
    return digest[:LETTERS]


def approves(named: str, shown: str, *, database: str, digest: str) -> Verdict:
    """Whether the answer, a database's name and the digest in the form, is about this database and the plan of now."""
    if named != database:
        return Verdict(
            go=False, reason=f"the approval names {named!r}, the live database is {database!r}: nothing was changed"
        )
    if shown != in_form(digest):
        return Verdict(
            go=False,
            reason="the world changed between the plan and its approval: nothing was changed; look at the new plan",
        )
    return Verdict(go=True, reason=f"{database} and the plan {shown} are those that were shown")
