"""Backup and restore beside pg_dump, pg_restore and the original pipeline, in one run on one machine.

BENCH_GB is the database's size (1), BENCH_ROUNDS how often each is run (3); medians count. Ratios, not seconds, are the
promise: server, client and store share the machine's cores. Run it on a machine that does nothing else.
"""

import os
import resource
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from blocks.postgres.address import Address
from blocks.postgres.cluster import scratch
from blocks.postgres.contents import Contents
from blocks.postgres.crew import Crew, Job
from blocks.postgres.load import create_database, crew_for, drop_database, load, read_back
from blocks.postgres.snapshot import hold
from blocks.postgres.tools import Tools, server_tools
from blocks.storage.objects import DirectoryPlace, Place, S3Place
from tests.blocks.processes import children
from tests.blocks.trip import IDENTITY, PREFIX, store
from tests.parts.postgres import make_database, running

GB = float(os.environ.get("BENCH_GB", "1"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
TOOLS = server_tools(17)


@dataclass
class Table:
    """Seconds by name, all rounds, shown beside the base."""

    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    cpu: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    notes: list[str] = field(default_factory=list[str])

    def time(self, name: str, act: Callable[[], object]) -> None:
        started, before = time.monotonic(), client_cpu_s()
        act()
        self.seconds.setdefault(name, []).append(time.monotonic() - started)
        self.cpu.setdefault(name, []).append(client_cpu_s() - before)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        return self.median(name) / self.median(base)

    def show(self, title: str, base: str) -> None:
        load = os.getloadavg()
        print(f"\n{title} ({GB:g} GB, {ROUNDS} rounds, load {load[0]:.1f} of {os.cpu_count()} cores)")  # noqa: T201
        for name, values in self.seconds.items():
            spread = f"{min(values):6.2f} - {max(values):.2f}"
            cpu = f"client CPU {statistics.median(self.cpu[name]):5.2f} s" if name in self.cpu else ""
            print(f"  {name:44s} {self.median(name):7.2f} s {self.ratio(name, base):6.2f} x  [{spread}]  {cpu}")  # noqa: T201
        for note in self.notes:
            print(f"  {note}")  # noqa: T201


def client_cpu_s() -> float:
    """CPU seconds of this process and of what it started and waited for; the servers' are not among them."""
    used = (resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF))
    return sum(each.ru_utime + each.ru_stime for each in used)


class Peak:
    """The highest PSS of the processes below this one that are ours: workers and their tools."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()

    @contextmanager
    def watched(self) -> Generator["Peak"]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.bytes = max(self.bytes, sum(map(pss, ours())))


def ours() -> list[int]:
    """Workers of blocks.postgres and what they started; not the servers, nor the store."""
    workers = [pid for pid in children(os.getpid()) if b"blocks.postgres.worker" in read(f"/proc/{pid}/cmdline")]
    return workers + [child for worker in workers for child in children(worker)]


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def pss(pid: int) -> int:
    lines = read(f"/proc/{pid}/smaps_rollup").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:")), 0)


@pytest.fixture(scope="module")
def filled() -> Generator[Address]:
    """A database of about BENCH_GB, vacuumed, its pages in memory."""
    server = running(TOOLS)
    cluster = next(server)
    address = make_database(cluster, "bench")
    tool(address, "pgbench", "-i", "-q", "-s", str(max(round(30 * GB), 1)), "bench")
    script = Path(__file__).with_name("bench.sql")
    tool(address, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", f"rows={int(240_000 * GB)}", "-f", str(script))
    with address.connect() as connection:
        connection.execute("vacuum analyze")
        row = connection.execute("select pg_database_size(current_database())").fetchone()
    print(f"\ndatabase of {(row[0] if row else 0) / 1e6:.0f} MB")  # noqa: T201
    yield address
    server.close()


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A folder in memory: the disk is not what is measured."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own below it
    folder = memory / f"shipkeeper-bench-{os.getpid()}" if memory.is_dir() else tmp_path_factory.mktemp("bench")
    folder.mkdir(exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def environment(address: Address) -> dict[str, str]:
    return {**os.environ, **address.environ()}


def tool(address: Address, name: str, *arguments: str) -> None:
    subprocess.run([TOOLS.path(name), *arguments], env=environment(address), check=True, stderr=subprocess.DEVNULL)


def pipeline(address: Address, command: str) -> None:
    shell = ["bash", "-o", "pipefail", "-c", command]
    subprocess.run(shell, env={**environment(address), "BIN": str(TOOLS.bin)}, check=True)


def ours_to(place: Place, address: Address) -> Contents:
    with hold(address) as held:
        return store(held, place, tools=TOOLS)


def original(address: Address, place: S3Place, folder: Path) -> None:
    """Plain file, gzip, openssl, all of it read into memory and put."""
    whole = folder / "whole"
    pipeline(address, f'"$BIN/pg_dump" -f {whole}.sql && gzip -6 -c {whole}.sql > {whole}.gz')
    pipeline(address, f"openssl enc -aes-256-cbc -pbkdf2 -pass pass:bench -in {whole}.gz -out {whole}.enc")
    place.open().put("whole", whole.with_suffix(".enc").read_bytes())
    for suffix in ("sql", "gz", "enc"):
        whole.with_suffix(f".{suffix}").unlink()


def imports_alone() -> int:
    """The PSS of two workers that have imported everything and done nothing."""
    address = Address("127.0.0.1", 1, "nobody", "", "none")
    place = S3Place(bucket="none", endpoint="http://127.0.0.1:1", access_key="a", secret_key="b", region="r")
    orders = {"address": address.to_json(), "place": place.to_json(), "prefix": "", "pinned": {}}
    with Crew(orders, 2) as crew:
        crew.run([Job("open_store", {}), Job("open_store", {})])
        return sum(map(pss, ours()))


def test_a_dump_costs_what_pg_dump_costs(filled: Address, fast: Path, place: S3Place) -> None:
    table, peak = Table(), Peak()
    folder = DirectoryPlace(folder=str(fast / "dump"))
    archive = fast / "archive"
    contents: list[Contents] = []
    base, ours_folder, ours_weed = "pg_dump -f /dev/null", "ours to a directory", "ours to weed on the same cores"
    for _ in range(ROUNDS):
        table.time(base, lambda: tool(filled, "pg_dump", "-f", "/dev/null"))
        table.time(ours_folder, lambda: contents.append(ours_to(folder, filled)))
        with peak.watched():
            table.time(ours_weed, lambda: ours_to(place, filled))
        shutil.rmtree(folder.folder)
        table.time(
            "pg_dump -Fc -Z zstd:3 to a file",
            lambda: tool(filled, "pg_dump", "-Fc", "-Z", "zstd:3", "-f", str(archive)),
        )
    table.time("original: gzip, openssl, read whole, put", lambda: original(filled, place, fast))
    size = contents[-1].totals["stored_bytes"] / archive.stat().st_size
    above = (peak.bytes - imports_alone()) / 1e6
    table.notes += [
        f"size {size:.3f} of -Fc -Z zstd:3",
        f"PSS peak {peak.bytes / 1e6:.0f} MB, {above:.0f} above imports",
    ]
    table.show("dump", base)
    archive.unlink()
    assert size <= 1.05
    assert above <= 190
    assert table.ratio(ours_folder, base) <= 1.05
    assert table.ratio(ours_weed, base) <= 1.4


def test_a_proven_restore_costs_what_pg_restore_costs(filled: Address, fast: Path) -> None:
    table = Table()
    contents = ours_to(DirectoryPlace(folder=str(fast / "load")), filled)
    tool(filled, "pg_dump", "-Fd", "-j2", "-Z", "zstd:3", "-f", str(fast / "directory"))
    base, rows_only, proven = "pg_restore -j2 of -Fd", "ours: load", "ours: load and compare everything"
    with scratch(17) as cluster:
        for _ in range(ROUNDS):
            theirs = database(cluster.address(), contents)
            command = partial(tool, theirs, "pg_restore", "-j2", "-d", "new", str(fast / "directory"))
            table.time(base, command)
            database(cluster.address(), contents)
            seconds = restored(theirs, contents, DirectoryPlace(folder=str(fast / "load")), TOOLS)
            table.seconds.setdefault(rows_only, []).append(seconds["load"])
            table.seconds.setdefault(proven, []).append(seconds["load"] + seconds["compare"])
            table.notes.append(", ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    table.show("restore", base)
    assert table.ratio(rows_only, base) <= 0.9
    assert table.ratio(proven, base) <= 1.1


def database(server: Address, contents: Contents) -> Address:
    drop_database(server, "new")
    create_database(server, "new", contents.database)
    return replace(server, database="new")


def restored(address: Address, contents: Contents, place: Place, tools: Tools) -> dict[str, float]:
    """Seconds from the start of the crew; without analyze, which pg_restore does not do."""
    started = time.monotonic()
    with crew_for(address, contents, place, PREFIX, [IDENTITY], tools=tools) as crew:
        loaded = load(address, contents, crew)
        load_s = time.monotonic() - started - loaded.seconds["analyze"]
        compared = read_back(contents, crew)
        assert compared.differences == ()
    compare_s = time.monotonic() - started - load_s - loaded.seconds["analyze"]
    return {"load": load_s, "compare": compare_s, **loaded.seconds}
