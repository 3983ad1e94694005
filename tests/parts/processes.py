"""Processes of this machine, as the tests of killed ones see them."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path


def command_lines() -> dict[int, list[str]]:
    """Every process's arguments; those that ended meanwhile are left out."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def children(of: int) -> list[int]:
    """The processes below one; not those that ended, also when they wait for their parent."""
    found: list[int] = []
    for task in Path(f"/proc/{of}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)] if alive(child) else []
    return found


def running(program: str, database: str) -> int | None:
    """The process of a tool that works on a database."""
    for pid, arguments in command_lines().items():
        if Path(arguments[0]).name == program and any(database in argument for argument in arguments):
            return pid
    return None


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually(question: Callable[[], object], seconds: float = 20) -> None:
    """Wait until it is so, asking the more slowly the longer it takes."""
    began = time.monotonic()
    while not question():
        waited = time.monotonic() - began
        assert waited < seconds, f"it never came, not within {seconds:g} s"
        time.sleep(min(max(waited / 50, 0.005), 0.3))


@contextlib.contextmanager
def meanwhile(act: Callable[[], object]) -> Generator[None]:
    """Act in a thread of its own; what it raises is raised here."""
    raised: list[BaseException] = []

    def acting() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=acting)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
    if raised:
        raise raised[0]


def kill(pid: int | None, signal: int) -> None:
    assert pid
    os.kill(pid, signal)
