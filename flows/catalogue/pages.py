"""Decides how the catalogue is shown: rows of a table, one a backup."""

from collections.abc import Sequence

from flows.catalogue.grades import Graded
from flows.words import moment, size

Rows = list[dict[str, str]]


def catalogue_rows(backups: Sequence[Graded]) -> Rows:
    """Newest first: what each backup is and what it is worth."""
    newest_first = sorted(backups, key=lambda backup: backup.at, reverse=True)
    return [
        {
            "backup": backup.id,
            "kind": backup.kind,
            "state of": moment(backup.at),
            "rows": f"{backup.rows:,}",
            "stored": size(backup.stored_bytes),
            "worth": backup.grade,
            "why": backup.reason,
        }
        for backup in newest_first
    ]
