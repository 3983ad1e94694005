"""Decides what the ledger remembers of a complete backup: its manifest in, the record out."""

from collections.abc import Mapping

from flows.catalogue.manifest import Manifest
from flows.records import Backup


def record_of(manifest: Manifest, manifest_sha256: str, seconds: Mapping[str, float] | None = None) -> Backup:
    """What the ledger remembers of a complete backup."""
    return Backup(
        id=manifest.id,
        stage=manifest.stage,
        service=manifest.service,
        database=manifest.database.name,
        kind=manifest.kind,
        state="complete",
        snapshot_at=manifest.snapshot.time,
        started=manifest.started,
        finished=manifest.finished,
        seconds=dict(seconds or {}),
        tables=manifest.totals.tables,
        rows=manifest.totals.rows,
        plain_bytes=manifest.totals.plain_bytes,
        stored_bytes=manifest.totals.stored_bytes,
        size_bytes=manifest.database.size_bytes,
        prefix=manifest.prefix,
        manifest_sha256=manifest_sha256,
        error=None,
        proof_asked_at=None,
        operation=manifest.operation,
        token=manifest.token,
    )
