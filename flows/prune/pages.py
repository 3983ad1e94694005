"""Decides how a prune's plan is shown: rows of a table, one a backup, and one for all else that goes."""

from collections.abc import Iterable

from flows.prune.retention import PrunePlan, Row


def prune_rows(
    plan: PrunePlan, orphans: Iterable[str] = (), uploads: Iterable[tuple[str, str]] = ()
) -> list[dict[str, str]]:
    """Newest first: every backup with the rules that keep it, or why it goes; then what crashed runs left.

    What goes has its steps, by the names that tasks and journal give them. `uploads` are pairs of key and id.
    """
    left = [_left(orphan, "no manifest", f"sweep {orphan}") for orphan in orphans]
    left += [_left(key, "an unfinished upload", f"abort {key} {upload}") for key, upload in uploads]
    return [*(_row(row, plan) for row in reversed(plan.rows)), *left]


def _row(row: Row, plan: PrunePlan) -> dict[str, str]:
    goes = row.backup in plan.drops
    return {
        "backup": row.backup.id,
        "worth": row.backup.grade,
        "stays": "goes" if goes else ("stays" if row.keep else "would go"),
        "rules": "; ".join(row.reasons),
        "steps": f"hide {row.backup.id}, delete {row.backup.id}" if goes else "",
    }


def _left(what: str, why: str, step: str) -> dict[str, str]:
    return {"backup": what, "worth": why, "stays": "goes", "rules": "older than the grace time", "steps": step}
