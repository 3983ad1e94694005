"""Processes of their own that cost no import: forked from one that has the house loaded and does nothing else.

As a program (`python -m tests.parts.nursery MODULE...`) it is that one: a line of JSON asks for a child, and it says
when each began and ended. It has one thread, so that a fork is safe.
"""

import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).parents[2]
ZOMBIES = 16


class Child:
    """One process, with as much of Popen's face as a test needs."""

    def __init__(self) -> None:
        self.pid, self.returncode = 0, None
        self.begun, self.ended = threading.Event(), threading.Event()
        self.returncode: int | None

    def poll(self) -> int | None:
        """Its exit code, once it ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it ended."""
        if not self.ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def finish(self, timeout: float) -> int:
        """Its exit code, when it ended; it does not live longer than that."""
        try:
            return self.wait(timeout)
        finally:
            self.kill()

    def send_signal(self, number: int) -> None:
        """While it lives."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks, as its parent sees it, while the block lasts."""

    def __init__(self, *modules: str) -> None:
        command = [sys.executable, "-m", "tests.parts.nursery", *modules]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._asked, self._children = list[Child](), dict[int, Child]()
        self._one = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, run: str, arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Child:
        """A child that calls `run` ("module:function") with the arguments; 0 it went well, 3 it raised."""
        child, pipe = Child(), self._process.stdin
        assert pipe
        with self._one:
            self._asked.append(child)
            print(json.dumps([run, dict(arguments), dict(environ)]), file=pipe, flush=True)
        if not child.begun.wait(60):
            raise TimeoutError("the nursery does not answer")
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it; children go with their tests."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _listen(self) -> None:
        pipe = self._process.stdout
        assert pipe
        for line in pipe:
            what, pid, code = line.split()
            if what == "began":
                child = self._children[int(pid)] = self._asked.pop(0)
                child.pid = int(pid)
                child.begun.set()
            else:
                child = self._children.pop(int(pid))
                child.returncode = int(code)
                child.ended.set()


def _child(run: str, arguments: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    os.environ.update(environ)
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    module, _, function = run.partition(":")
    code = 3
    try:
        getattr(import_module(module), function)(arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - the exit code tells the parent, the file a person
        if said := os.environ.get("NURSERY_SAYS"):
            with Path(said).open("a") as file:
                file.write(f"{environ}\n{traceback.format_exc()}\n")
    finally:
        os._exit(code)


def _tell_end(pid: int) -> None:
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found
    killed = found.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
    _say("ended", pid, -found.si_status if killed else found.si_status)


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _serve(asked: IO[bytes]) -> None:
    alive = dict[int, int]()  # by the descriptor that can be read once it ended
    ended = deque[int]()  # the last ones stay as zombies, so that who looks at one in /proc finds it
    while True:
        ready, _, _ = select.select([asked.fileno(), *alive], [], [])
        for descriptor in alive.keys() & set(ready):
            os.close(descriptor)
            ended.append(alive.pop(descriptor))
            _tell_end(ended[-1])
        while len(ended) > ZOMBIES:
            os.waitpid(ended.popleft(), 0)
        if asked.fileno() not in ready:
            continue
        line = asked.readline()
        if not line:
            return
        pid = os.fork()
        if not pid:
            _child(*json.loads(line))
        alive[os.pidfd_open(pid)] = pid
        _say("began", pid, 0)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    assert threading.active_count() == 1
    gc.freeze()  # a child's collector leaves alone, and shared, what was here before it
    _serve(open(0, "rb", buffering=0, closefd=False))  # noqa: SIM115 - it is open already, and unbuffered for select
