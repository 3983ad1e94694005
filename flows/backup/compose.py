"""Decides what the manifest says: what was seen, held and stored in, the manifest out. Times are the database's own."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flows.catalogue.manifest import Manifest

BY_HAND = (
    "age -d -i KEY schema.pgc.zst.age | zstd -d > schema.pgc",
    "pg_restore --section=pre-data --no-owner --no-privileges --no-tablespaces --exit-on-error -d NEW schema.pgc",
    "age -d -i KEY data/NUMBER.SCHEMA.TABLE.copy.zst.age | zstd -d > rows",
    "psql -d NEW -c 'copy SCHEMA.TABLE (COLUMNS) from stdin' < rows",
    "pg_restore --section=post-data --no-owner --no-privileges --no-tablespaces --exit-on-error -d NEW schema.pgc",
    "the whole of it, with sequences and checks: docs/runbooks/restore.md",
)


def compose(
    identity: Mapping[str, Any],
    contents: Mapping[str, Any],
    beside: Mapping[str, Any],
    *,
    started: datetime,
    finished: datetime,
) -> Manifest:
    """The manifest of one backup, not yet stamped with its operation.

    Args:
        identity: id, kind, service, stage, prefix, tools, recipients, signing_key.
        contents: what was stored and what it will be compared with (blocks.postgres.contents.Contents as JSON).
        beside: dependents, roles, policy_roles, settings, left_out, and the snapshot's facts.
        started: when the backup began.
        finished: when the last object was stored.
    """
    return Manifest.model_validate(
        {
            **identity,
            **contents,
            **beside,
            "started": started,
            "finished": finished,
            "locked_until": None,
            "operation": None,
            "token": None,
            "restore": BY_HAND,
        }
    )
