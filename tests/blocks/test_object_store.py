"""The local stage's object store: what happens around its start."""

import json
from pathlib import Path

import pytest

from blocks.errors import Unreachable
from deployments.local.objectstore import ObjectStore, weed

LOST = "F1129 20:17:32 filer.go:461 failed to listen on grpc port 45051: listen tcp 127.0.0.1:45051: bind: {}"


def stumbling(folder: Path, why: str) -> str:
    """The server, which ends at its first start as it did on a busy machine."""
    script = folder / "weed"
    script.write_text(f"""#!/bin/sh
        if mkdir '{folder}/tried' 2>/dev/null; then
            cp '{folder}/store/ports.json' '{folder}/tried'
            echo '{LOST.format(why)}'
            exit 1
        fi
        exec '{weed()}' "$@"
    """)
    script.chmod(0o755)
    return str(script)


def test_a_port_that_became_anothers_after_it_was_chosen_is_no_reason_to_end(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "store", stumbling(tmp_path, "address already in use"))
    try:
        assert store.start("test-key", "test-canary-secret", "backups") is store
        lost, found = (json.loads((tmp_path / name / "ports.json").read_text()) for name in ("tried", "store"))
        assert lost["s3"] != found["s3"]
    finally:
        store.stop()


def test_another_reason_is_told_at_once(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "store", stumbling(tmp_path, "permission denied"))
    with pytest.raises(Unreachable, match=r"ended while it was starting: .*permission denied"):
        store.start("test-key", "test-canary-secret", "backups")
