"""Values with defaults for the tests of decisions."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.catalogue.grades import Graded
from flows.catalogue.manifest import Manifest
from flows.records import Backup, Difference, Grade, Kind, Proof, Ruling

PREFIX = "backups/production/curator/app/20261124T020000Z-daily-k3v9q2/"


def at(text: str) -> datetime:
    """2026-11-24T02:00, or 11-24 02:00 of 2026."""
    whole = text if text[4] == "-" else f"2026-{text.replace(' ', 'T')}"
    return datetime.fromisoformat(whole).replace(tzinfo=UTC)


def graded(time: str, kind: Kind = "daily", grade: Grade = "proven", **more: Any) -> Graded:
    return replace(Graded(id=f"{time} {kind}", at=at(time), kind=kind, grade=grade), **more)


def backup(name: str = "20261124T020000Z-daily-k3v9q2", **more: Any) -> Backup:
    time = at(f"{name[:4]}-{name[4:6]}-{name[6:11]}:{name[11:13]}")
    values: dict[str, Any] = {
        "id": name,
        "stage": "production",
        "service": "curator",
        "database": "app",
        "kind": name[17:-7],
        "state": "complete",
        "snapshot_at": time,
        "started": time,
        "finished": time + timedelta(seconds=5),
        "manifest_sha256": digest(name),
    }
    return Backup(**{**values, **more})


def proof(verdict: Ruling, time: str = "11-24 02:14", of: str = "20261124T020000Z-daily-k3v9q2", **more: Any) -> Proof:
    values: dict[str, Any] = {
        "backup": of,
        "verdict": verdict,
        "at": at(time),
        "prover": "9f2c01ab",
        "server_version": "17.10",
        "manifest_sha256": digest(of),
    }
    if verdict == "disproven":
        values["differences"] = (Difference(what="public.videos", wanted="140000 rows", found="139999 rows"),)
    if verdict == "unproven":
        values["lacks"] = ("pg_trgm",)
    return Proof(**{**values, **more})


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def manifest(**more: Any) -> dict[str, Any]:
    """The manifest of the reference, as JSON with one table of Korean text."""
    schema = {"key": "schema.pgc.zst.age", "role": "schema", "bytes": 10, "sha256": digest("s"), "plain_bytes": 20}
    data = {
        "key": "data/00000.public.비디오.copy.zst.age",
        "role": "data",
        "table": 0,
        "rows": 3,
        "xxh3_128": digest("x")[:32],
        "bytes": 30,
        "sha256": digest("d"),
        "plain_bytes": 60,
    }
    part = {"bytes": 10, "sha256": digest("s")}
    sequence = {"schema": "public", "name": "videos_id_seq", "last_value": "9223372036854775807", "is_called": True}
    values: dict[str, Any] = {
        "format": "shipkeeper-backup/1",
        "id": "20261124T020000Z-daily-k3v9q2",
        "kind": "daily",
        "service": "curator",
        "stage": "production",
        "prefix": PREFIX,
        "started": "2026-11-24T02:00:00.020Z",
        "finished": "2026-11-24T02:00:05.310Z",
        "locked_until": None,
        "operation": None,
        "token": None,
        "tools": {"pg_dump": "17.10"},
        "database": {
            "name": "app",
            "oid": 16389,
            "system_identifier": "7443",
            "server_version_num": 170010,
            "encoding": "UTF8",
            "collate": "C.UTF-8",
            "ctype": "C.UTF-8",
            "provider": "c",
            "collation_version": None,
            "size_bytes": 992845312,
        },
        "snapshot": {
            "time": "2026-11-24T02:00:00.380Z",
            "lsn": "0/24DF330",
            "from": "primary",
            "replay_lag_seconds": None,
            "pg_snapshot": "754:754:",
        },
        "pinned": {"TimeZone": "UTC"},
        "recipients": ["age1team", "age1escrow"],
        "signing_key": "9f2c01ab",
        "objects": [{**schema, "parts": [part]}, {**data, "parts": []}],
        "tables": [{"schema": "public", "name": "비디오", "columns": ["id"], "key": ["id"], "persistence": "p"}],
        "excluded": [
            {"schema": "public", "name": "sessions", "what": "data", "rule": "public.sessions", "rows_estimate": 51234}
        ],
        "sequences": [sequence],
        "large_objects": {"count": 0, "xxh3_128": None},
        "matviews": ["public.daily"],
        "dependents": {},
        "extensions": [{"name": "pg_trgm", "version": "1.6", "schema": "public"}],
        "roles": ["app"],
        "settings": [{"role": None, "name": "work_mem"}],
        "left_out": ["foreign table data: public.remote"],
        "totals": {"tables": 1, "rows": 3, "plain_bytes": 80, "stored_bytes": 40},
        "restore": ["age -d -i KEY schema.pgc.zst.age | zstd -d > schema.pgc"],
    }
    return {**values, **more}


def read(value: dict[str, Any], prefix: str = PREFIX) -> Manifest:
    return Manifest.parse(json.dumps(value).encode(), prefix=prefix)
