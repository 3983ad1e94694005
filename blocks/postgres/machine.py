"""How a cluster lives on this machine: who its server runs as, its processes, its private files.

Postgres refuses root: root's servers run in a user namespace, where root's files are theirs, or else as nobody. A
process is known by the folder it works in, never by a pid alone: a pid may be another's by now. This file kills only
processes that work in a data folder of ours.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from blocks.errors import Refused, Unreachable

PATH_LIMIT = 107  # sockaddr_un, less its closing zero


@cache
def as_user() -> tuple[str, ...]:
    """What goes before a command of Postgres, which refuses root: a user namespace, else nobody."""
    if os.geteuid() != 0:
        return ()
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    ways = (
        ("unshare", "-U", "--map-user=1000", "--map-group=1000"),
        (*nobody, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"),  # so that it still passes root's folders
        nobody,
    )
    for way in ways:
        if shutil.which(way[0]) and subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    raise Refused("Postgres refuses to run as root, and neither unshare -U nor setpriv works here: run as another user")


def own(folder: Path) -> None:
    """Gives the folder to whom the server runs as; in a user namespace root's files are the server's already."""
    if "setpriv" in as_user():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)


def call(  # noqa: PLR0913 - what a program is given: words, input, environment, time
    command: Sequence[str],
    wanted: str,
    folder: Path | None = None,
    *,
    feed: str = "",
    environment: dict[str, str] | None = None,
    limit_s: float = 120,
) -> None:
    """Runs a program of Postgres, in `folder`; its words go to a file: a pipe would stay open as long as the server."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [*as_user(), *command],
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=words,
            env={**_clean(), **(environment or {})},
            cwd=folder or "/",
        )
        try:
            process.communicate(feed.encode(), timeout=limit_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode or (feed and _complaint(_read(words))):
            raise Refused(f"wanted {wanted}: {Path(command[0]).name} failed, {_reason(folder, _read(words))}")


def _clean() -> dict[str, str]:
    """The environment without what would lead a tool elsewhere, and in English, as its words are read."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C.UTF-8"}


def _read(words: IO[bytes]) -> str:
    words.seek(0)
    return words.read().decode(errors="replace")


def _complaint(text: str) -> str:
    found = re.findall(r"(?:FATAL|PANIC|ERROR|error): +(.*)", text)
    return found[-1][:200] if found else ""


def _reason(folder: Path | None, words: str) -> str:
    log = folder / "log" if folder else None
    if log and log.exists():
        return f"{_complaint(log.read_text(errors='replace')[-20_000:]) or 'without a reason'}: see {log}"
    return _complaint(words) or "without a reason"


# ---- processes


def postmaster(data: Path) -> int | None:
    """Its pid, when the one written down lives and works in this very folder: a pid alone may be another's by now."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if _works_in(pid, data) else None


def _works_in(pid: int, data: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == data.resolve() and _state(pid) != "Z"
    except OSError:
        return False


def clear_dead(data: Path) -> None:
    """After a kill -9: children that outlive it hold its shared memory, and its pid file may name a stranger."""
    kill_all(data)
    (data / "postmaster.pid").unlink(missing_ok=True)
    for left in socket_folder(data.parent).glob(".s.PGSQL.*"):  # the dead one may still be there as a zombie
        left.unlink(missing_ok=True)


def kill_all(data: Path) -> None:
    """Kills whatever works in this data folder, and returns when all of it is gone."""
    deadline = time.monotonic() + 10
    while pids := list(_living(data)):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Unreachable(f"processes of the Postgres in {data} do not end: {pids}")
        time.sleep(0.01)  # of a folder's processes nobody tells that the last one is gone


def _living(data: Path) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _works_in(int(entry.name), data):
            yield int(entry.name)


def _state(pid: int) -> str:
    return _stat(pid)[0]


def started(pid: int) -> int:
    """When this process started, in ticks since boot; 0 when it is gone. With the pid it names a process."""
    try:
        fields = _stat(pid)
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# ---- files


def socket_folder(folder: Path) -> Path:
    """Where the socket of the cluster in `folder` lies: below it, or in /tmp when that path is too long for one."""
    usual = folder / "run"
    if len(os.fsencode(usual)) + len("/.s.PGSQL.65535.lock") <= PATH_LIMIT:
        return usual
    name = f"sk-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    return Path("/tmp") / name  # noqa: S108 - short on purpose, and private looks whose it is


def leave_no_socket(folder: Path) -> None:
    """Removes what a stopped cluster has outside its folder."""
    if socket_folder(folder) != folder / "run":
        shutil.rmtree(socket_folder(folder), ignore_errors=True)


def private(folder: Path) -> Path:
    """Makes a folder that only we enter; refuses one that another laid there before us."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid not in {os.geteuid(), 65534} or found.st_mode & 0o077:
        raise Refused(f"{folder} belongs to another user or lets others in: remove it")
    return folder


def write(path: Path, text: str) -> None:
    """0600 from its first moment."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - by descriptor
        file.write(text)


def quote(text: str) -> str:
    """For postgresql.conf and conninfo alike: both take backslashes before quotes and backslashes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
