"""The local stage's promises: two checkouts don't meet, only loopback listens, `up` reuses, `down` leaves nothing."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from deployments.local.database import ServiceDatabase
from deployments.local.demo import Show, brought_up, main_job
from deployments.local.stage import ROOT, LocalStage, down, is_up, running_stage
from flows.records_release import Told
from flows.stage import STAGES, Stage
from flows.world import World

pytestmark = pytest.mark.timeout(600)
BAKE = 'minimum = "30s"\nmaximum = "5m"'  # of the first release
BAKES = {"one": 'minimum = "10s"\nmaximum = "5m"', "two": 'minimum = "1h"\nmaximum = "1h"'}
LISTENS = "0A"  # the state of such a socket in /proc/net/tcp
LOOPBACK = ("0100007F", "00000000000000000000000001000000")
ROWS = "select count(*), md5(string_agg(u::text, ',' order by id)) from public.users u"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[LocalStage]]:
    """The stages of two checkouts, brought up at the same time."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(bring_up, folders))
        yield [running_stage(folder) for folder in folders]
    finally:
        for folder in folders:
            down(folder)


def bring_up(folder: Path) -> None:
    """As a person does it in that checkout."""
    text, name = (STAGES / "local.toml").read_text(), folder.name.rstrip("0")
    assert BAKE in text
    toml(folder).parent.mkdir()
    toml(folder).write_text(text.replace(BAKE, BAKES[name]))
    command = [sys.executable, "-m", "deployments", "up"]
    environ = os.environ | checkout(folder)
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def toml(folder: Path) -> Path:
    """What describes the stage named local there."""
    return folder / "stages" / "local.toml"


def checkout(folder: Path) -> dict[str, str]:
    """What makes the difference between two checkouts."""
    return {"SHIPKEEPER_STATE": str(folder), "SHIPKEEPER_STAGES": str(toml(folder).parent)}


def processes(stage: LocalStage) -> set[int]:
    """Every process that was started in the stage's folder, for it, or with its environment."""
    mark = str(stage.folder).encode()
    return {int(each.name) for each in Path("/proc").glob("[0-9]*") if mark in said_of(each)} - {os.getpid()}


def said_of(process: Path) -> bytes:
    with suppress(OSError):  # it ended meanwhile, or is another user's
        told = [(process / name).read_bytes() for name in ("cmdline", "environ")]
        return b"".join([*told, str((process / "cwd").readlink()).encode()])
    return b""


def listeners(stage: LocalStage) -> set[tuple[str, int]]:
    """Address, in the kernel's hex, and port of every socket on which those processes take connections."""
    ours = {inode for pid in processes(stage) for inode in sockets(pid)}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    found = [line[1].split(":") for line in lines if line[3] == LISTENS and line[9] in ours]
    return {(address, int(port, 16)) for address, port in found}


def sockets(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield str(each.readlink()).removeprefix("socket:[").removesuffix("]")


def known(stage: LocalStage) -> dict[str, int]:
    """The pids that the stage has written down, by name."""
    papers = (stage.folder / "processes").glob("*.json")
    return {paper.stem: json.loads(paper.read_text())["pid"] for paper in papers}


def rows(stage: LocalStage) -> object:
    with ServiceDatabase(stage.folder / "service").address.connect() as connection:
        return connection.execute(ROWS).fetchone()


def test_two_stages_side_by_side_share_nothing_and_listen_on_loopback_alone(both: list[LocalStage]) -> None:
    one, two = both
    assert not processes(one) & processes(two)
    for stage in both:
        found = listeners(stage)
        assert set(stage.ports.values()) <= {port for _, port in found}
        assert {address for address, _ in found} <= set(LOOPBACK)
        assert httpx.get(f"{stage.service}/health", timeout=10).is_success
    assert not listeners(one) & listeners(two)


def ask(stage: LocalStage) -> "subprocess.CompletedProcess[str]":
    """For a backup, as CI does."""
    words = ["deployment", "run", "backup/local", "--param", "kind=before-shutdown", "--watch"]
    command = [str(Path(sys.executable).with_name("prefect")), *words]
    environ = {**stage.environ, "COLUMNS": "300"}
    return subprocess.run(command, env=environ, cwd=stage.folder, capture_output=True, text=True, check=False)


def asked_for(stage: LocalStage) -> list[str]:
    """The backups of that kind which are there."""
    found = World(Stage.named("local"), stage.environ).ledger.backups()
    return [each.id for each in found if (each.kind, each.state) == ("before-shutdown", "complete")]


def test_a_backup_that_ci_asks_for_ends_as_the_backup_does(both: list[LocalStage]) -> None:
    one, two = both
    paper, text = toml(two.folder), toml(two.folder).read_text()
    paper.write_text(text.replace('"public.sessions"', '"public.nothing"'))  # a rule without a match: refused
    with ThreadPoolExecutor() as pool:
        done, failed = pool.map(ask, both)
    paper.write_text(text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(asked_for(one)) == 1
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "finished in state 'Failed'" in failed.stdout
    assert not asked_for(two)


def enter(monkeypatch: pytest.MonkeyPatch, stage: LocalStage) -> Show:
    """Go to that checkout; a demo there shows nothing."""
    for name, value in checkout(stage.folder).items():
        monkeypatch.setenv(name, value)
    return Show(Console(quiet=True))


def test_another_up_reuses_it_and_a_demo_leaves_up_what_was_up(
    both: list[LocalStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = both
    show, before = enter(monkeypatch, one), known(one)
    with brought_up(show):
        assert known(one) == before
    assert is_up()


def no_releases(_show: Show, _stage: LocalStage) -> None:
    """Other files bring such live."""


def test_the_demo_brings_lost_rows_back_once_its_person_approves(
    both: list[LocalStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = both
    show = enter(monkeypatch, one)
    with temporary_settings({PREFECT_API_URL: one.environ["PREFECT_API_URL"]}):
        main_job(show, one, no_releases)
    back, refused = (outcome for _, _, outcome in show.rows[-2:])
    assert re.match(r"[\d,]+ videos are back in the live database", back), back
    assert "refused" in refused


def test_after_a_clean_end_it_comes_back_with_its_rows_and_a_release_that_serves(
    both: list[LocalStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first release was still being watched, so that deploy is undone, and asked for again."""
    one, two = both
    had = rows(two)
    with ThreadPoolExecutor() as pool:
        list(pool.map(down, (one.folder, two.folder)))
    assert processes(one) | processes(two) == set()

    with brought_up(enter(monkeypatch, two)) as again:
        assert again.ports == two.ports
        assert rows(again) == had
        assert [each.state for each in releases(again)] == ["undone", "acting"]
        assert httpx.get(f"{again.service}/health", timeout=10).is_success
    assert processes(two) == set()


def releases(stage: LocalStage) -> list[Told]:
    return World(Stage.named("local"), stage.environ).ledger.releases.all()
