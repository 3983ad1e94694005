"""What a backup's flow and all that it starts take: memory that does not grow with the database, and no disk.

The flow runs in a process of its own; Postgres and the object store are not below it. BENCH_GB and BENCH_ROUNDS as in
test_backup_bench.py; the highest of all rounds counts.
"""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from blocks.postgres.cluster import Cluster
from deployments.local.objectstore import ObjectStore
from tests.bench.filled import GB, ROUNDS, fill
from tests.bench.footprint import Footprint, pss
from tests.parts.scene import Scene, scene
from tests.parts.store import s3_place

ROOT = Path(__file__).parents[2]
MB = 1_000_000
MOST_ABOVE_IMPORTS, MOST_APART, MOST_ON_DISK = 190 * MB, 10 * MB, 1 * MB
FLOW = """
import sys
from flows.backup.flow import backup
from flows.effect import without_prefect
print("imported", flush=True)
sys.stdin.readline()
with without_prefect():
    print(backup("test"), flush=True)
"""
HIDDEN = """
import subprocess, sys, tempfile
kept, hidden = bytearray(b"x" * 40_000_000), tempfile.TemporaryFile()
hidden.write(kept[:30_000_000])
hidden.flush()
below = subprocess.Popen([sys.executable, "-c", "kept = bytearray(b'x' * 50_000_000); print(1, flush=True); input()"])
below.wait()
"""


@dataclass(frozen=True)
class Taken:
    """What one backup took; `imports` is the flow's process before it began."""

    imports: int
    memory: int
    files: int
    disk: int

    @property
    def above(self) -> int:
        """Memory above the flow's own imports."""
        return self.memory - self.imports


def test_the_footprint_counts_a_child_and_a_file_without_a_name() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HIDDEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process, Footprint(process.pid).watched() as seen:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        seen.look_twice()
        process.communicate(b"\n")
    assert seen.memory_bytes > 90 * MB
    assert 30 * MB <= seen.file_bytes < 31 * MB


def test_a_backup_takes_as_much_memory_of_a_large_database_as_of_a_small_one_and_no_disk(
    postgres17: Cluster, weed: ObjectStore, tmp_path: Path
) -> None:
    small, large = (taken(postgres17, weed, tmp_path / str(gb), gb) for gb in (GB / 4, GB))
    for each in (small, large):
        assert each.above <= MOST_ABOVE_IMPORTS
        assert each.files <= MOST_ON_DISK
        assert each.disk <= MOST_ON_DISK
    assert abs(large.memory - small.memory) <= MOST_APART


def taken(cluster: Cluster, weed: ObjectStore, folder: Path, gb: float) -> Taken:
    """The most of all rounds."""
    with filled_scene(cluster, weed, folder, gb) as stage:
        rounds = [one_backup(stage, folder) for _ in range(ROUNDS)]
    most = Taken(*(max(values) for values in zip(*map(astuple, rounds), strict=True)))
    above = ", ".join(f"{each.above / MB:.0f}" for each in rounds)
    print(  # noqa: T201
        f"backup of {gb:g} GB to weed, flow, workers and tools: PSS at most {most.memory / MB:.0f} MB, above the flow's"
        f" imports ({most.imports / MB:.0f} MB) {above} MB; in files {most.files} bytes, to disk {most.disk} bytes;"
        f" load {os.getloadavg()[0]:.1f}"
    )
    return most


@contextmanager
def filled_scene(cluster: Cluster, weed: ObjectStore, folder: Path, gb: float) -> Generator[Scene]:
    with scene(cluster, s3_place(weed), folder) as made:
        with made.database.connect() as connection:
            connection.execute("drop table public.users")
        fill(made.database, gb)
        yield made


def one_backup(stage: Scene, folder: Path) -> Taken:
    """One in a process of its own, whose temporary files have a folder of their own."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environ = {**os.environ, **stage.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", FLOW], cwd=ROOT, env=environ, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as flow:  # fmt: skip
        assert flow.stdout
        assert flow.stdout.readline() == "imported\n"
        imports = pss(flow.pid)
        with Footprint(flow.pid).watched() as seen:
            said, _ = flow.communicate("go\n")
    assert flow.returncode == 0
    assert " stored; " in said
    left = sum(each.stat().st_size for each in temporary.rglob("*") if each.is_file())
    return Taken(imports, seen.memory_bytes, seen.file_bytes + left, seen.disk_bytes)
