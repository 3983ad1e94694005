"""Releases as processes of this machine, in two slots: the platform of the local stage. It supervises nothing.

What runs is read from /proc, by a mark in each process' environment: nothing has to be remembered to be true, and a
starter that is killed right after the fork loses nothing. A release that dies stays dead until somebody starts it.
Secrets reach a release in its environment, which this user alone can read, and never on a command line. A program that
writes over its own environment (some that set their process title do) is not seen: it cannot be operated here.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr, StringConstraints

from blocks.errors import Missing, Refused, Unreachable
from blocks.held import held_folder, locked
from blocks.marked import end, marked
from blocks.repository import Repository

MARK = "SHIPKEEPER_SLOT"
CHILDREN: "list[subprocess.Popen[bytes]]" = []  # kept: they are to outlive whoever started them
SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
_WHOLE = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LOOK_S = 0.02
_LOCKED_S = 5.0
_KILLED_S = 10.0
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Slot:
    """One place for a release."""

    name: str
    port: int
    commit: str | None = None  # what lives there
    pids: tuple[int, ...] = ()  # its processes, the first one first

    @property
    def alive(self) -> bool:
        """Whether anything lives there."""
        return bool(self.pids)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


class Processes(Block):
    """
    Releases as processes of this machine, for a stage on one host. It is no supervisor: use it for local stages.

    Example:
        ```python
        from blocks.processes import Processes

        platform = Processes.load("BLOCK_NAME")
        print(platform.check())
        ```
    """  # noqa: D212 - Prefect reads the example from here

    _block_type_name: ClassVar[str | None] = "Releases as processes"
    _block_type_slug: ClassVar[str | None] = "releases-as-processes"
    _description: ClassVar[str | None] = "Releases of a service as processes of this machine, in two slots."
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://man7.org/linux/man-pages/man5/proc_pid_environ.5.html"
    )

    folder: str = Field(pattern="^/", description="The absolute path of the folder for checkouts and output.")
    repository: str = Field(description="The absolute path of the service's git repository on this machine.")
    ports: dict[SlotName, int] = Field(description="The port of each slot, chosen once: a load balancer knows them.")
    start_command: list[str] = Field(description="The words of the command that starts a release; {port} is replaced.")
    environment: dict[str, SecretStr] = Field(default={}, description="The service's variables, by name.")
    grace_s: float = Field(default=30, gt=0, description="How long a release may take to end once asked, in seconds.")

    @property
    def git(self) -> Repository:
        """Where releases come from."""
        return Repository(Path(self.repository))

    def slots(self) -> dict[str, Slot]:
        """What lives in each slot now."""
        found = {name: Slot(name, port) for name, port in self.ports.items()}
        for pid, slot, commit in self._marked():
            if slot in found:
                known = found[slot]
                found[slot] = Slot(slot, known.port, commit, (*known.pids, pid))
        return found

    def build(self, commit: str) -> Path:
        """A clean checkout of the commit, made when it is not there; Missing when there is no such commit.

        One that is there needs no repository: the way back stays open when that is away.
        """
        target = self._builds / commit
        if not (_WHOLE.fullmatch(commit) and target.exists()):
            target = self._builds / self.git.resolve(commit)
            self.git.checkout(target.name, target)
        return target

    @contextmanager
    def fresh_checkout(self, commit: str) -> Generator[Path]:
        """A clean checkout in which no release runs, for what is only to be tried; deleted when the block ends.

        Those that killed processes left are deleted first. Missing when there is no such commit.
        """
        whole = self.git.resolve(commit)
        with held_folder(Path(self.folder) / "checkouts") as folder:
            self.git.checkout(whole, folder / whole)
            yield folder / whole

    def can_build(self, commit: str) -> bool:
        """Whether there is a checkout of it, or a repository that has it."""
        if (self._builds / commit).exists():
            return True
        try:
            return self.git.has(commit)
        except Missing:
            return False

    def start(self, slot: str, commit: str) -> None:
        """Start the commit there, in a session of its own; returns when it is seen to run, healthy or not.

        Nothing happens when it runs there already. Refused when another does. Missing: no such commit, or program.
        Only one starter acts at a time; one that is killed leaves the release running, or nothing.
        """
        build = self.build(commit)
        with self._alone(slot):
            there = self._slot(slot)
            if there.commit == build.name:
                return
            if there.alive:
                raise Refused(f"slot {slot} runs {there.commit}: stop it before {build.name} is started there")
            new = self._wanted(slot).with_suffix(".new")
            new.write_text(build.name)
            new.rename(self._wanted(slot))
            self._fork(there, build)

    def stop(self, slot: str) -> None:
        """End what lives there: SIGTERM to all of it, SIGKILL after the grace time. A free slot stays free."""
        self._slot(slot)
        self._wanted(slot).unlink(missing_ok=True)
        self.pause(slot)

    def pause(self, slot: str) -> None:
        """End it, to be started again by `revive`."""
        for sign, patience_s in ((signal.SIGTERM, self.grace_s), (signal.SIGKILL, _KILLED_S), (signal.SIGKILL, 1.0)):
            if not self._slot(slot).alive:
                return
            end(self._slot(slot).pids, sign, patience_s, carrying=MARK)
        if not self._slot(slot).alive:
            return
        raise Unreachable(f"the release in slot {slot} does not end, not even by SIGKILL: look at its processes")

    def revive(self) -> list[str]:
        """Start again what was started and not stopped, and died with its machine; the slots it did that for."""
        wanted = {name: self._is_wanted(name) for name, slot in self.slots().items() if not slot.alive}
        revived = {name: commit for name, commit in wanted.items() if commit}
        for name, commit in revived.items():
            self.start(name, commit)
        return list(revived)

    def words(self, slot: str, lines: int = 3) -> str:
        """The last lines that the release there printed."""
        text = _tail(self._words(slot))
        return " / ".join(text.strip().splitlines()[-lines:]) or "it said nothing"

    def prune_builds(self, keep: Sequence[str]) -> list[str]:
        """Delete the checkouts of all other commits that live, or are to live, in no slot; their names.

        A checkout goes in one rename: it is whole, or not there.
        """
        kept = {
            *keep,
            *(slot.commit for slot in self.slots().values()),
            *(self._is_wanted(each) for each in self.ports),
        }
        there = [each for each in self._builds.glob("*") if _WHOLE.fullmatch(each.name)]
        gone = [each for each in there if each.name not in kept]
        for each in gone:
            each.rename(each.with_name(f".gone-{each.name}"))
        for left in (*self._builds.glob(".gone-*"), *self.git.unfinished(self._builds)):
            shutil.rmtree(left, ignore_errors=True)
        return [each.name for each in gone]

    def check(self) -> str:
        """One sentence: what lives in which slot, and the newest commit that could."""
        head = self.git.resolve("HEAD")
        lives = ", ".join(f"{slot.name} {slot.commit or 'is free'}" for slot in self.slots().values())
        return f"the platform answers: {lives}; the repository is at {head}."

    # ---- below: how it is seen

    def _slot(self, name: str) -> Slot:
        slots = self.slots()
        if name not in slots:
            raise Refused(f"there is no slot {name!r}: this platform has {', '.join(slots)}")
        return slots[name]

    def _marked(self) -> Iterator[tuple[int, str, str]]:
        """Pid, slot, commit of each of our own processes, oldest first."""
        for pid, mark in marked(MARK):
            place, _, commit = mark.rpartition(":")
            folder, _, slot = place.rpartition(":")
            if folder == self.folder:
                yield pid, slot, commit

    # ---- below: how it is changed

    @contextmanager
    def _alone(self, slot: str) -> Generator[None]:
        """With no other starter at work on the slot. The child keeps the lock until it has become the release."""
        self._slot(slot)
        self._wanted(slot).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + _LOCKED_S
        with self._wanted(slot).with_suffix(".lock").open("w") as lock:
            while not locked(lock.fileno()):
                if time.monotonic() > deadline:
                    raise Unreachable(f"another starter has been at work on slot {slot} for {_LOCKED_S:.0f} s")
                time.sleep(_LOOK_S)  # a lock of a file announces nothing, and has no time-out
            yield

    def _fork(self, there: Slot, build: Path) -> None:
        words = [word.replace("{port}", str(there.port)) for word in self.start_command]
        opened = os.open(self._words(there.name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        with os.fdopen(opened, "wb") as output:
            try:
                release = subprocess.Popen(
                    words, cwd=build, env=self._variables(there.name, build.name, there.port),
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    preexec_fn=_restore_interrupt,  # noqa: PLW1509 - one system call, no lock is taken
                )  # fmt: skip
            except (FileNotFoundError, PermissionError):
                self._wanted(there.name).unlink()
                raise Missing(f"there is no program {words[0]!r} to start a release with: correct it") from None
        CHILDREN.append(release)

    def _variables(self, slot: str, commit: str, port: int) -> dict[str, str]:
        given = {name: value.get_secret_value() for name, value in self.environment.items()}
        path = f"{Path(self.start_command[0]).parent}:{os.defpath}"
        ours = {"PORT": str(port), "RELEASE": commit, MARK: f"{self.folder}:{slot}:{commit}"}
        return {"PATH": path, "HOME": self.folder, "LANG": "C.UTF-8", **given, **ours}

    @property
    def _builds(self) -> Path:
        return Path(self.folder) / "builds"

    def _wanted(self, slot: str) -> Path:
        return Path(self.folder) / "slots" / slot

    def _is_wanted(self, slot: str) -> str:
        """The commit that was started there and not stopped."""
        paper = self._wanted(slot)
        return paper.read_text() if paper.exists() else ""

    def _words(self, slot: str) -> Path:
        return Path(self.folder) / "slots" / f"{slot}.log"


def _tail(path: Path) -> str:
    """The end of a file; it may be long."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
        return file.read().decode(errors="replace")


def _restore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
