"""Kills (or stops, and wakes up later) a process at every point of a step list, and checks what the ledger promises.

Points come from a clean run's own step rows, so that a step added to a list is killed without anybody writing a test.
Each process is forked by a nursery, as an import costs more than the whole run. As a program
(`python -m tests.parts.killing MODULE:FUNCTION JSON`) it is one that a test starts itself.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, LiteralString

from pydantic import JsonValue

from flows.ledger import Ledger, Unheard
from flows.ledger.line import Line
from flows.ledger.setting import rebuilt
from tests.parts.nursery import Child, Nursery

Fault = Literal["kill", "stop"]
Arguments = Mapping[str, Any]
ROOT = Path(__file__).parents[2]
MOMENTS = ("intent", "acted", "done")
AT_ONCE = 4  # tries: most of each is waiting for a lease to end


def _as_next(arguments: Arguments) -> Arguments:
    return {**arguments, "key": f"{arguments['key']}-next"}


def _nothing(arguments: Arguments) -> JsonValue:
    return None


@dataclass(frozen=True)
class Matrix:
    """A step list to be killed. Each try gets a fresh world; `arguments["key"]` is the key of its operation.

    `run`: "module:function", called with the arguments in a process of its own; it builds its own ledger, with a
    world whose stage allows faults. `ledger` looks at the same ledger from here and reconciles. `fingerprint` is
    compared before and after a stopped process woke up, beside the journal's own settings.
    """

    run: str
    fresh: Callable[[str], Arguments]
    ledger: Callable[[Arguments], Ledger]
    nursery: Nursery
    following: Callable[[Arguments], Arguments] = _as_next
    fingerprint: Callable[[Arguments], JsonValue] = _nothing
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    patience_s: float = 60.0

    def points(self) -> list[str]:
        """Every point of the list: run it clean and read its rows; those of the undo when it does not end as done."""
        arguments = self.fresh("clean")
        self._start(arguments).finish(self.patience_s)
        book = Book(self.ledger(arguments), arguments["key"])
        names = [str(step["name"]) for step in book.steps()]
        forward = [f"{name}:{moment}" for name in names for moment in MOMENTS]
        if book.operation()["state"] == "done":
            return [*forward, *(["commit"] if book.told("committed") else []), "settle"]
        return [*forward, *(f"undo {name}:{moment}" for name in reversed(names) for moment in MOMENTS), "settle"]

    def complaints(self, points: Sequence[str] | None = None, faults: Sequence[Fault] = ("kill", "stop")) -> list[str]:
        """What went wrong, over all points; empty when every promise was kept."""
        tries = [(point, fault) for point in points or self.points() for fault in faults]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(self.complain, [point for point, _ in tries], [fault for _, fault in tries])
            return [each for complaints in found for each in complaints]

    def complain(self, point: str, fault: Fault, tries: int = 2) -> list[str]:
        """What went wrong at one point: settled, the world right, the key used up, the zombie powerless?

        A process that a busy machine ended before its point says nothing about the point: it is tried once more.
        """
        arguments = self.fresh(f"{point}-{fault}-{tries}".replace(" ", "-").replace(":", "-").replace("/", "-"))
        with closing(self.ledger(arguments)) as ledger:
            book = Book(ledger, arguments["key"])
            process = self._start(arguments, point, fault)
            if not _hit(process, fault, self.patience_s):
                if tries > 1:
                    return Matrix.complain(self, point, fault, tries - 1)
                return [f"{point} {fault}: the point was not reached, the process ended with {process.returncode}"]
            ended = self._settle(book)
            found = book.wrong() if ended else ["it was not settled"]
            found += self._woken(book, process, arguments, point) if fault == "stop" else []
            found += self._again(book, arguments) if ended else []
        return [f"{point} {fault}: {each}" for each in found]

    def _settle(self, book: "Book") -> bool:
        return settled(book, self.patience_s)

    def _woken(self, book: "Book", process: Child, arguments: Arguments, point: str) -> list[str]:
        before = (book.told(), book.readings(), self.fingerprint(arguments))
        process.send_signal(signal.SIGCONT)
        code = process.finish(self.patience_s)
        found = [] if (book.told(), book.readings(), self.fingerprint(arguments)) == before else ["the woken one wrote"]
        return found if point == "settle" or code != 0 else [*found, "the woken one believes that it did it"]

    def _again(self, book: "Book", arguments: Arguments) -> list[str]:
        before = (book.told(), self.fingerprint(arguments))
        self._start(arguments).finish(self.patience_s)
        found = [] if (book.told(), self.fingerprint(arguments)) == before else ["the same key again did something"]
        following = self.following(arguments)
        self._start(following).finish(self.patience_s)
        ended = Book(book.ledger, following["key"]).operation()["ended_at"]
        return found if ended else [*found, "the next operation did not settle"]

    def _start(self, arguments: Arguments, point: str = "", fault: str = "") -> Child:
        return self.nursery.start(self.run, arguments, {**self.environ, "FAULT_AT": point, "FAULT": fault})


@dataclass(frozen=True)
class Book:
    """One operation as its rows say."""

    ledger: Ledger
    key: str

    def operation(self) -> Mapping[str, Any]:
        """Its row."""
        return self._ask("select * from ledger.operation where key = %s", [self.key])[0]

    def steps(self) -> Sequence[Mapping[str, Any]]:
        """Its step rows, in order."""
        return self._ask(
            "select s.* from ledger.step s join ledger.operation o on o.id = s.operation"
            " where o.key = %s order by s.position",
            [self.key],
        )

    def told(self, beginning: str = "") -> list[str]:
        """Its events that begin so."""
        story = self.ledger.story(self.operation()["id"])
        return [what for _, what in story if what.startswith(beginning)]

    def readings(self) -> list[JsonValue]:
        """Where its settings stand now."""
        world = self.ledger.world
        return [rebuilt(step["setting"], step["arguments"]).read(world) for step in self.steps()]

    def wrong(self) -> list[str]:
        """Which promise about a settled operation is broken."""
        row, steps = self.operation(), self.steps()
        held = self._ask("select scope from ledger.hold where operation = %s", [row["id"]])
        found = [f"it is {row['state']} and still holds {each['scope']}" for each in held]
        found += [
            f"it is {row['state']}, its step {s['name']} {s['state']}" for s in steps if s["state"] != row["state"]
        ]
        committed = bool(self.told("committed")) or row["state"] == "done"
        if committed and row["state"] != "done":
            found.append("it was committed and is undone")
        return found + [each for each in map(self._misplaced, _positions(steps, row["state"])) if each]

    def _ask(self, statement: LiteralString, values: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        return self._line.ask(statement, values)

    @cached_property
    def _line(self) -> Line:
        return Line(self.ledger.address, lease_s=60, looks=False)

    def _misplaced(self, position: tuple[Mapping[str, Any], JsonValue]) -> str:
        step, want = position
        setting = rebuilt(step["setting"], step["arguments"])
        now = setting.read(self.ledger.world)
        return "" if setting.agrees(now, want) else f"{step['name']}: should be {want!r}, is {now!r}"


def settled(book: Book, patience_s: float) -> bool:
    """Passes of reconcile until it is."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with suppress(Unheard):  # a machine that is busy with other tests
            if book.operation()["ended_at"]:
                return True
            book.ledger.tick_once()
        time.sleep(0.2)
    return False


def _positions(steps: Sequence[Mapping[str, Any]], state: str) -> list[tuple[Mapping[str, Any], JsonValue]]:
    """Where each setting should stand: the last thing wanted of it, or what was read first."""
    last = steps if state == "done" else list(reversed(steps))
    field_ = "want" if state == "done" else "before"
    stay = [step for step in last if step["back"] != "nothing"]
    return list({(s["setting"], json.dumps(s["arguments"], sort_keys=True)): (s, s[field_]) for s in stay}.values())


def _hit(process: Child, fault: Fault, patience_s: float) -> bool:
    """Wait until it died of SIGKILL, or stopped."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if process.poll() is not None:
            return fault == "kill" and process.returncode == -signal.SIGKILL
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        if fault == "stop" and stat[0] == "T":
            return True
        time.sleep(0.05)
    process.kill()
    return False


if __name__ == "__main__":
    module, _, function = sys.argv[1].partition(":")
    getattr(import_module(module), function)(json.loads(sys.argv[2]))
