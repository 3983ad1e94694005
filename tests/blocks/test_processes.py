"""Releases as processes: the platforms' contract, and what only this platform does."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks.errors import Missing, Refused, Unreachable
from blocks.marked import marked
from blocks.processes import Processes
from blocks.repository import Repository
from deployments.local.objectstore import free_ports
from tests.blocks import platform_contract as contract
from tests.blocks.platform_contract import GRACE_S, SECRET, START, PlatformContract, commit, git, heals
from tests.parts.nursery import Nursery
from tests.parts.processes import alive, eventually


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return Processes

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """It has none, and needs none."""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Processes]:
    made = platform_in(tmp_path, "releases", environment={"SECRET": SecretStr(SECRET)})
    yield made
    for slot in made.slots():
        made.stop(slot)


def platform_in(place: Path, name: str, **changed: Any) -> Processes:
    ports = dict(zip(("blue", "green"), free_ports(2), strict=True))
    fields = {"folder": str(place / name), "repository": str(place / "repository"), "ports": ports}
    return Processes.model_validate({**fields, "start_command": START, "grace_s": GRACE_S, **changed})


@pytest.fixture
def first(tmp_path: Path) -> str:
    return commit(tmp_path / "repository", "first")


class TestThePlatform(PlatformContract):
    pass


# What only this one does


def test_two_platforms_on_one_machine_see_their_own_alone(platform: Processes, first: str, tmp_path: Path) -> None:
    other = platform_in(tmp_path, "releases:blue")
    other.start("blue", first)
    assert not platform.slots()["blue"].alive
    platform.stop("blue")
    assert other.slots()["blue"].alive
    other.stop("blue")


def test_all_processes_of_a_release_end_also_those_that_do_not_listen(first: str, tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    made = platform_in(tmp_path, "many", start_command=["sh", "-c", f'{sys.executable} -c "{deaf}" & wait'], grace_s=1)
    made.start("blue", first)
    eventually(lambda: "deaf" in made.words("blue"))
    pids = made.slots()["blue"].pids
    assert len(pids) == 2
    made.stop("blue")
    assert not any(map(alive, pids))


def test_a_release_has_sigint_as_it_is_by_default(platform: Processes, first: str, tmp_path: Path) -> None:
    fields = platform.model_dump(include={"folder", "repository", "ports", "start_command", "grace_s"})
    arguments = {"platform": fields, "slot": "blue", "commit": first}
    with Nursery("tests.blocks.test_processes") as nursery:
        assert nursery.start("tests.blocks.test_processes:start_deaf", arguments, {}).wait(20) == 0
    status = Path(f"/proc/{platform.slots()['blue'].pids[0]}/status").read_text()
    [ignored] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn")]
    assert not ignored & 1 << signal.SIGINT - 1


def start_deaf(arguments: Mapping[str, Any]) -> None:
    """As a shell starts what runs in its background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    contract.start(arguments)


def test_a_starter_that_was_stopped_in_the_act_keeps_others_out(platform: Processes, first: str) -> None:
    slots = Path(platform.folder) / "slots"
    slots.mkdir(parents=True)
    with (slots / "blue.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unreachable, match="another starter has been at work on slot blue for 5 s"):
            platform.start("blue", first)
        platform.start("green", first)
    platform.start("blue", first)
    assert heals(platform, "blue").status == 200


def test_a_program_that_is_not_there_is_missing_and_nothing_is_revived(first: str, tmp_path: Path) -> None:
    made = platform_in(tmp_path, "none", start_command=["/nowhere/serve", "{port}"])
    with pytest.raises(Missing, match="there is no program '/nowhere/serve'"):
        made.start("blue", first)
    assert made.revive() == []


def test_what_it_printed_last_is_kept(platform: Processes, first: str, tmp_path: Path) -> None:
    made = platform_in(tmp_path, "loud", start_command=["sh", "-c", "seq 100000; echo went wrong >&2; exit 3"])
    assert made.words("blue") == "it said nothing"
    made.start("blue", first)
    eventually(lambda: not made.slots()["blue"].alive)
    assert made.words("blue", 2) == "100000 / went wrong"


def test_a_build_that_is_there_needs_no_repository(platform: Processes, first: str, tmp_path: Path) -> None:
    platform.build(first)
    (tmp_path / "repository").rename(tmp_path / "gone")
    platform.start("blue", first)
    assert heals(platform, "blue").release == first
    assert [platform.can_build(each) for each in (first, "0" * 40)] == [True, False]
    with pytest.raises(Missing, match="there is no repository at"):
        platform.build("0" * 40)


# A checkout of its own, for what is only to be tried


def test_a_fresh_checkout_is_clean_whatever_the_release_did_to_its_own_and_is_gone_afterwards(
    platform: Processes, first: str
) -> None:
    build = platform.build(first)
    (build / "text").write_text("made by the release")
    with platform.fresh_checkout(first) as one, platform.fresh_checkout(first[:12]) as two:
        assert [(each / "text").read_text() for each in (one, two)] == ["first", "first"]
        assert len({one, two, build}) == 3
        (one / "text").write_text("made by a gate")
        assert Path(platform.folder) in one.parents
    assert not one.exists()
    assert not two.exists()
    assert list(Path(platform.folder, "checkouts").iterdir()) == []
    assert (build / "text").read_text() == "made by the release"


def test_a_fresh_checkout_is_gone_also_when_what_was_tried_failed(platform: Processes, first: str) -> None:
    with pytest.raises(Refused), platform.fresh_checkout(first):
        raise Refused("what was tried")
    with pytest.raises(Missing), platform.fresh_checkout("0" * 40):
        pass
    assert list(Path(platform.folder, "checkouts").iterdir()) == []


def test_a_fresh_checkout_of_a_killed_process_goes_with_the_next_one_and_no_living_ones_does(
    platform: Processes, first: str
) -> None:
    fields = platform.model_dump(include={"folder", "repository", "ports", "start_command", "grace_s"})
    checkouts = Path(platform.folder) / "checkouts"
    arguments = {"platform": fields, "commit": first}
    with Nursery("tests.blocks.test_processes") as nursery:
        held = [nursery.start("tests.blocks.test_processes:hold_a_checkout", arguments, {}) for _ in range(2)]
        eventually(lambda: len(list(checkouts.glob("*/*/held"))) == 2)
        killed, living = sorted(checkouts.glob("*/*/held"), key=lambda each: int(each.read_text()) != held[0].pid)
        held[0].kill()
        held[0].wait(10)
        assert killed.exists()
        with platform.fresh_checkout(first) as ours:
            assert not killed.parent.parent.exists()
            assert living.exists()
            assert ours.exists()
        held[1].kill()


def hold_a_checkout(arguments: Mapping[str, Any]) -> None:
    """Until it is killed."""
    with Processes.model_validate(arguments["platform"]).fresh_checkout(arguments["commit"]) as folder:
        new = folder / "new"
        new.write_text(str(os.getpid()))
        new.rename(folder / "held")
        signal.pause()


def test_many_who_take_a_fresh_checkout_at_the_same_time_each_have_a_whole_one(platform: Processes, first: str) -> None:
    seen, together = list[str](), threading.Barrier(8)

    def take() -> None:
        together.wait()
        for _ in range(3):
            with platform.fresh_checkout(first) as folder:
                seen.append((folder / "text").read_text())

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["first"] * 24


@pytest.mark.parametrize(
    "changed",
    [{"folder": "relative"}, {"ports": {"Blue:1": 8000}}, {"grace_s": 0}],
)
def test_fields_that_cannot_be_are_refused(tmp_path: Path, changed: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        platform_in(tmp_path, "releases", **changed)


def test_the_check_is_one_sentence(platform: Processes, first: str) -> None:
    platform.start("green", first)
    assert platform.check() == (f"the platform answers: blue is free, green {first}; the repository is at {first}.")


# Where releases come from


@pytest.fixture
def repository(tmp_path: Path, first: str) -> Repository:
    return Repository(tmp_path / "repository")


def test_names_stand_for_commits(repository: Repository, first: str) -> None:
    second = commit(repository.folder, "second")
    git(repository.folder, "tag", "-a", "v1", "-m", "v1", first)
    assert [repository.resolve(name) for name in ("main", "HEAD", second, second[:8], "v1")] == [second] * 4 + [first]
    assert repository.has(first)
    assert not repository.has("0" * 40)
    for wrong in ("nobody", "-n", "", "0" * 40, "main:app.py"):
        with pytest.raises(Missing):
            repository.resolve(wrong)


def test_a_commit_is_on_a_branch_or_not(repository: Repository, first: str) -> None:
    git(repository.folder, "checkout", "-q", "-b", "side")
    side = commit(repository.folder, "side")
    assert repository.reachable(first, "main")
    assert repository.reachable(side, "side")
    assert not repository.reachable(side, "main")
    for wrong in (("0" * 40, "main"), (first, "nobody")):
        with pytest.raises(Missing):
            repository.reachable(*wrong)


def test_subjects_are_what_a_release_brings(repository: Repository, first: str) -> None:
    second, third = (commit(repository.folder, text) for text in ("second", "세 번째"))
    assert repository.subjects(first, third) == ["세 번째", "second"]
    assert repository.subjects("", second) == ["second", "first"]
    assert repository.subjects(third, first) == []
    with pytest.raises(Missing):
        repository.subjects("0" * 40, third)


def test_subjects_are_all_of_them_or_as_many_as_are_wanted(repository: Repository, first: str) -> None:
    for number in range(60):
        git(repository.folder, "commit", "-q", "--allow-empty", "-m", f"change {number}")
    last = repository.resolve("HEAD")
    assert repository.subjects(first, last) == [f"change {number}" for number in range(59, -1, -1)]
    assert len(repository.subjects("", last)) == 61
    assert repository.subjects("", last, most=1) == ["change 59"]


def test_builders_at_the_same_time_make_one_whole_build(platform: Processes, first: str) -> None:
    made, together = list[Path](), threading.Barrier(8)

    def build() -> None:
        together.wait()
        made.append(platform.build(first))

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert [path.name for path in Path(platform.folder, "builds").iterdir()] == [first]
    assert (made[0] / "text").read_text() == "first"


def test_a_killed_builder_leaves_no_half_build_and_pruning_clears_away_what_it_left(
    platform: Processes, first: str
) -> None:
    builds = Path(platform.folder) / "builds"
    builds.mkdir(parents=True)
    now, old = (builds / f".{first}-new-{name}" for name in ("now", "old"))
    for left in (now, old):
        left.mkdir()
        (left / "text").touch()
    os.utime(old, (0, 0))
    assert (platform.build(first) / "app.py").exists()
    assert platform.prune_builds([first]) == []
    assert sorted(path.name for path in builds.iterdir()) == sorted([first, now.name])


def test_a_git_that_hangs_is_unreachable(repository: Repository, tmp_path: Path) -> None:
    fifo = repository.folder / ".git" / "objects" / "info" / "alternates"
    os.mkfifo(fifo)
    with pytest.raises(Unreachable, match=r"git did not answer within 0\.5 s"):
        Repository(repository.folder, timeout_s=0.5).resolve("main")


def test_a_commit_that_cannot_be_unpacked_is_refused_and_leaves_nothing(
    repository: Repository, first: str, tmp_path: Path
) -> None:
    broken = tmp_path / "full"
    tree = git(repository.folder, "rev-parse", f"{first}:app.py")
    Path(repository.folder, ".git", "objects", tree[:2], tree[2:]).unlink()
    with pytest.raises(Refused, match="could not be checked out"):
        repository.checkout(first, broken / first)
    assert list(broken.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_one_that_became_another_users_is_not_ours() -> None:
    becomes = "import os, signal; print(os.setuid(65534), flush=True); signal.pause()"
    command, mark = [sys.executable, "-c", becomes], "SHIPKEEPER_TEST_MARK"
    with subprocess.Popen(command, env={mark: "x"}, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            assert list(marked(mark)) == []
        finally:
            process.kill()
