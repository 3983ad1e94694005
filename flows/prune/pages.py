"""Decides how a prune's plan is shown: rows of a table, one a backup."""

from flows.prune.retention import PrunePlan


def prune_rows(plan: PrunePlan) -> list[dict[str, str]]:
    """Newest first: every backup with the rules that keep it, or why it goes."""
    return [
        {
            "backup": row.backup.id,
            "worth": row.backup.grade,
            "stays": "stays" if row.keep else ("goes" if plan.verdict.go else "would go"),
            "rules": "; ".join(row.reasons),
        }
        for row in reversed(plan.rows)
    ]
