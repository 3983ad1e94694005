"""initdb's result, kept for the next cluster of the same programs: a copy of it takes a tenth of initdb's time.

A template is used only while its files are, by name and size, what initdb left.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from blocks.errors import Garbled
from blocks.postgres.machine import call, own, write
from blocks.postgres.tools import Tools, version_of

SUPERUSER = "postgres"
INITDB = ("-N", "-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust")


def lay_out(tools: Tools, data: Path) -> None:
    """Fills `data` as initdb would."""
    shutil.copytree(template(tools), data, symlinks=True)
    data.chmod(0o700)


def template(tools: Tools) -> Path:
    """The cached result of initdb for these very programs; made anew when it is not whole."""
    version = version_of(tools.bin / "initdb") or str(tools.major)
    key = hashlib.sha256(" ".join((str(tools.bin), *INITDB)).encode()).hexdigest()[:8]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shipkeeper" / "clusters"
    home.mkdir(parents=True, exist_ok=True)
    place = home / f"{version}-{key}"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # falls with its process
        if not _whole(place):
            _make_template(tools, place)
    return place / "data"


def _make_template(tools: Tools, place: Path) -> None:
    """Made aside and renamed, so that a killed one's is never seen; what that one left is removed first."""
    for left in (place, *place.parent.glob("making-*")):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=place.parent) as aside:
        data = Path(aside) / "made" / "data"
        data.parent.mkdir(mode=0o700)
        own(Path(aside))
        call([tools.path("initdb"), *INITDB, "-D", "data"], f"initdb of Postgres {tools.major}", data.parent)
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("\ninclude 'shipkeeper.conf'\n")
        write(data.parent / "sum", _sum(data))
        data.parent.rename(place)
    if not _whole(place):
        raise Garbled(f"the template of Postgres {tools.major} in {place} is damaged right after it was made")


def _whole(place: Path) -> bool:
    try:
        return (place / "sum").read_text() == _sum(place / "data")
    except FileNotFoundError:
        return False


def _sum(data: Path) -> str:
    """Of names and sizes: enough for what a full disk or a lost power leaves, and 20 times as fast as of all bytes."""
    files = sorted((str(path.relative_to(data)), path.stat().st_size) for path in data.rglob("*") if path.is_file())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
