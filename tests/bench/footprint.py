"""What a process and all below it take while they work, as /proc shows it: memory, open files, bytes to disks."""

import contextlib
import os
import stat
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_EVERY_S = 0.03


class Footprint:
    """The highest that was seen of each; a file counts from its first byte, without a name too."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._looked = threading.Condition()
        self._looks = 0
        self._to_disk: dict[int, int] = {}
        self.memory_bytes = 0
        self.file_bytes = 0

    @property
    def disk_bytes(self) -> int:
        """What they gave to any disk; a file system in memory is none."""
        return sum(self._to_disk.values())

    def look_twice(self) -> None:
        """Wait until all was looked at once more, from now on: the first look to end may have begun before."""
        with self._looked:
            now = self._looks
            self._looked.wait_for(lambda: self._looks >= now + 2)

    @contextmanager
    def watched(self) -> Generator["Footprint"]:
        """Look until the block is left."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            pids = list(_tree(self._pid))
            self.memory_bytes = max(self.memory_bytes, sum({memory_of(pid): pss(pid) for pid in pids}.values()))
            files = {file: size for pid in pids for file, size in files_written_by(pid)}
            self.file_bytes = max(self.file_bytes, sum(files.values()))
            self._to_disk |= {pid: written for pid in pids if (written := field(pid, "io", "write_bytes"))}
            with self._looked:
                self._looks += 1
                self._looked.notify_all()


def pss(pid: int) -> int:
    """Its memory in bytes; what several processes share is shared out among them."""
    return field(pid, "smaps_rollup", "Pss") * 1024


def memory_of(pid: int) -> str:
    """Which memory it works in, by where its arguments lie: a child that is no program yet works in its parent's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[45]
    return ""


def files_written_by(pid: int) -> Iterator[tuple[tuple[int, int], int]]:
    """The files that it has open for writing, each with its size."""
    for number in _listed(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            seen = os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - the open file, not what bears its name
            if stat.S_ISREG(seen.st_mode) and field(pid, f"fdinfo/{number}", "flags", base=8) & os.O_ACCMODE:
                yield (seen.st_dev, seen.st_ino), seen.st_size


def field(pid: int, file: str, name: str, *, base: int = 10) -> int:
    """A number of /proc; 0 of a process that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1], base)
    return 0


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in _listed(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                yield from _tree(child)


def _listed(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)  # noqa: PTH208 - names alone
    return []
