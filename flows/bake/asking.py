"""The questions of our own that a bake asks a release all the time: its health, its endpoints, what it depends on."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from blocks import web
from blocks.errors import BlockError
from flows.bake.rule import DOWN_AFTER
from flows.records_release import Release
from flows.world import World

HEALTH_S, DEPENDENCY_S, ENDPOINT_S = 1.0, 2.0, 5.0  # from one question to the next
PROBE_TIMEOUT_S = 3.0


@dataclass
class Probes:
    """What our own questions came to since the last look: of the release's endpoints, its health, its dependencies."""

    changed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counts: dict[str, list[int]] = field(default_factory=lambda: {"probes": [0, 0], "dependency": [0, 0]})
    _failures: int = 0  # of health, in a row

    def count(self, stream: str, *, ok: bool) -> None:
        """One question of a stream."""
        with self._lock:
            self._counts[stream][0] += 1
            self._counts[stream][1] += not ok

    def health(self, *, ok: bool) -> None:
        """One question of health."""
        with self._lock:
            self._failures = 0 if ok else self._failures + 1
            if self._failures == DOWN_AFTER:
                self.changed.set()

    def is_down(self) -> bool:
        """Whether enough failed in a row."""
        with self._lock:
            return self._failures >= DOWN_AFTER

    def take(self) -> dict[str, int]:
        """The counts since the last time, as a Look names them."""
        with self._lock:
            (n, bad), (dependency_n, dependency_bad) = self._counts["probes"], self._counts["dependency"]
            self._counts = {"probes": [0, 0], "dependency": [0, 0]}
            self.changed.clear()
            return {
                "probes_n": n, "probes_bad": bad, "dependency_n": dependency_n, "dependency_bad": dependency_bad,
                "health_failures": self._failures,
            }  # fmt: skip


@contextmanager
def probing(world: World, release: Release) -> Generator[Probes]:
    """Within it the release is asked all the time; what came of it is taken from what this gives."""
    probes, over = Probes(), threading.Event()
    rules, base = world.stage.release, world.platform.slots()[release.slot].url
    dependencies = [_dependency(world, name) for name in rules.dependencies]
    beats: list[tuple[float, Callable[[], None]]] = [
        (HEALTH_S, lambda: probes.health(ok=web.ask(base + rules.health, timeout_s=PROBE_TIMEOUT_S).healthy)),
        *((DEPENDENCY_S, _counted(probes, "dependency", asked)) for asked in dependencies),
        *((ENDPOINT_S, _counted(probes, "probes", _endpoint(base + path))) for path in rules.endpoints),
    ]
    threads = [threading.Thread(target=_beat, args=(over, *beat), daemon=True) for beat in beats]
    try:
        for thread in threads:
            thread.start()
        yield probes
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _beat(over: threading.Event, every_s: float, asked: Callable[[], None]) -> None:
    due = time.monotonic()
    while not over.wait(max(due - time.monotonic(), 0)):
        asked()
        due = max(due + every_s, time.monotonic())


def _counted(probes: Probes, stream: str, asked: Callable[[], bool]) -> Callable[[], None]:
    return lambda: probes.count(stream, ok=asked())


def _endpoint(url: str) -> Callable[[], bool]:
    return lambda: web.ask(url, timeout_s=PROBE_TIMEOUT_S).serves


def _dependency(world: World, name: str) -> Callable[[], bool]:
    """The service's own database, or an address that answers 2xx or wants a login."""
    if name != "database":
        return _endpoint(name)
    address = world.database.address()

    def answers() -> bool:
        try:
            with address.connect(statement_timeout_s=PROBE_TIMEOUT_S) as connection:
                return connection.execute("select 1").fetchone() == (1,)
        except BlockError:
            return False

    return answers
