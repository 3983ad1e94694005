"""A folder for what is only to be tried: it goes when that is over, and with the next one when its process was killed.

Each is locked by the process that made it, and a lock ends with its process: what nobody holds is left over. A folder
that a living process holds is never touched. For one machine: a lock is not seen from another.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def held_folder(below: Path) -> Generator[Path]:
    """A new, empty folder below that one, ours until the block ends; what killed processes left there goes before."""
    below.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in below.iterdir():
        with _held(left) as is_ours:
            if is_ours:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        made = Path(tempfile.mkdtemp(dir=below))
        with _held(made) as is_ours:
            if not is_ours:
                continue  # who came before the lock took it for left over
            try:
                yield made
            finally:
                shutil.rmtree(made, ignore_errors=True)
            return


def locked(file: int) -> bool:
    """Whether the file is ours now, until it is closed; no waiting."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def _held(folder: Path) -> Generator[bool]:
    """Whether the folder is there and nobody else's; then it is ours until the block ends."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        yield locked(file) and folder.exists()  # another may have deleted it just before
    finally:
        os.close(file)
