"""What every platform of releases must do, whichever it is: built, started, observed, ended; killed starters.

A suite for an adapter is a class that inherits `PlatformContract` and gives the fixture `platform`: one with two free
slots, blue and green, whose releases answer as tests/parts/traffic.py's do and know SECRET.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.errors import Missing, Refused
from blocks.processes import Processes
from tests.parts.nursery import Nursery
from tests.parts.processes import command_lines, eventually
from tests.parts.traffic import APP, Answer, ask

SECRET = "contract-canary-secret"
GRACE_S = 3.0
START = [sys.executable, "app.py", "{port}"]


def git(repository: Path, *words: str) -> str:
    """A git command in a repository of the test."""
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *author, *words], cwd=repository, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(repository: Path, text: str) -> str:
    """One more commit of the release, which differs in a file."""
    if not repository.exists():
        repository.mkdir(parents=True)
        git(repository, "init", "-q", "-b", "main")
    (repository / "app.py").write_text(APP)
    (repository / "text").write_text(text)
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", text)
    return git(repository, "rev-parse", "HEAD")


def start(arguments: Mapping[str, Any]) -> None:
    """What a starter does that is to be killed."""
    Processes.model_validate(arguments["platform"]).start(arguments["slot"], arguments["commit"])


def heals(platform: Processes, slot: str) -> Answer:
    """The release there, once it answers."""
    port = platform.ports[slot]
    eventually(lambda: ask(port).status == 200)
    return ask(port)


class PlatformContract:
    @pytest.fixture
    def commits(self, tmp_path: Path) -> Sequence[str]:
        """Two of them, oldest first."""
        return [commit(tmp_path / "repository", text) for text in ("first", "second")]

    @pytest.fixture
    def nursery(self) -> Iterator[Nursery]:
        """Starters that cost one import together."""
        with Nursery("tests.blocks.platform_contract") as made:
            yield made

    def test_a_build_is_a_clean_checkout_and_made_once(
        self, platform: Processes, commits: Sequence[str], tmp_path: Path
    ) -> None:
        (tmp_path / "repository" / "text").write_text("not committed")
        builds = [platform.build(each) for each in commits]
        assert [(build / "text").read_text() for build in builds] == ["first", "second"]
        (builds[0] / "made by the release").touch()
        assert platform.build(commits[0]) == builds[0]
        assert platform.build(commits[0][:12]) == builds[0]
        assert (builds[0] / "made by the release").exists()

    @pytest.mark.usefixtures("commits")
    def test_an_unknown_commit_is_missing_and_leaves_nothing(self, platform: Processes) -> None:
        for wrong in ("0" * 40, "nobody", "--all", ""):
            for ask_for in (
                lambda wrong=wrong: platform.build(wrong),
                lambda wrong=wrong: platform.start("blue", wrong),
            ):
                with pytest.raises(Missing):
                    ask_for()
        assert not platform.slots()["blue"].alive
        assert platform.revive() == []

    def test_a_started_release_answers_and_is_observed(self, platform: Processes, commits: Sequence[str]) -> None:
        assert [(slot.alive, slot.commit) for slot in platform.slots().values()] == [(False, None)] * 2
        platform.start("blue", commits[0])
        blue, green = platform.slots().values()
        assert (blue.name, blue.alive, blue.commit, blue.port) == ("blue", True, commits[0], platform.ports["blue"])
        assert blue.url == f"http://127.0.0.1:{blue.port}"
        assert not green.alive
        assert heals(platform, "blue").release == commits[0]

    def test_starting_again_changes_nothing(self, platform: Processes, commits: Sequence[str]) -> None:
        platform.start("blue", commits[0])
        heals(platform, "blue")
        before = platform.slots()["blue"]
        for name in (commits[0], commits[0][:12]):
            platform.start("blue", name)
        assert platform.slots()["blue"] == before

    def test_a_taken_slot_is_refused(self, platform: Processes, commits: Sequence[str]) -> None:
        platform.start("blue", commits[0])
        with pytest.raises(Refused, match=f"slot blue runs {commits[0]}: stop it before {commits[1]}"):
            platform.start("blue", commits[1])
        assert platform.slots()["blue"].commit == commits[0]

    def test_an_unknown_slot_is_refused(self, platform: Processes, commits: Sequence[str]) -> None:
        for ask_for in (lambda: platform.start("red", commits[0]), lambda: platform.stop("../red")):
            with pytest.raises(Refused, match="there is no slot"):
                ask_for()

    def test_stopping_lets_a_request_in_flight_finish(self, platform: Processes, commits: Sequence[str]) -> None:
        platform.start("blue", commits[0])
        heals(platform, "blue")
        told = list[Answer]()
        asking = threading.Thread(target=lambda: told.append(ask(platform.ports["blue"], "/?s=1")))
        asking.start()
        time.sleep(0.3)
        platform.stop("blue")
        asking.join()
        assert told[0].status == 200
        assert platform.words("blue").endswith("finished")
        assert not platform.slots()["blue"].alive
        platform.stop("blue")

    def test_what_does_not_end_is_killed_after_the_grace_time(
        self, platform: Processes, commits: Sequence[str]
    ) -> None:
        stubborn = platform.model_copy(update={"environment": {"STUBBORN": SecretStr("1")}})
        stubborn.start("blue", commits[0])
        heals(platform, "blue")
        began = time.monotonic()
        platform.stop("blue")
        assert GRACE_S <= time.monotonic() - began < GRACE_S + 2
        assert not platform.slots()["blue"].alive

    def test_a_starter_killed_anywhere_leaves_a_release_or_nothing(
        self, platform: Processes, commits: Sequence[str], nursery: Nursery
    ) -> None:
        platform.build(commits[0])
        fields = platform.model_dump(include={"folder", "repository", "ports", "start_command", "grace_s"})
        left = list[bool]()
        for milliseconds in (0, 2, 4, 6, 8, 10, 12, 15, 20, 40):
            child = nursery.start(
                "tests.blocks.platform_contract:start",
                {"platform": fields, "slot": "blue", "commit": commits[0]},
                {},
            )
            time.sleep(milliseconds / 1000)
            child.kill()
            child.wait(10)
            platform.start("blue", commits[0])
            left.append(len(platform.slots()["blue"].pids) == 1)
            assert heals(platform, "blue").release == commits[0]
            assert len(platform.slots()["blue"].pids) == 1
            platform.stop("blue")
        assert any(left)

    def test_a_release_outlives_the_session_of_its_starter(
        self, platform: Processes, commits: Sequence[str], nursery: Nursery
    ) -> None:
        fields = platform.model_dump(include={"folder", "repository", "ports", "start_command", "grace_s"})
        child = nursery.start(
            "tests.blocks.platform_contract:start", {"platform": fields, "slot": "blue", "commit": commits[0]}, {}
        )
        assert child.wait(20) == 0
        heals(platform, "blue")
        [pid] = platform.slots()["blue"].pids
        assert os.getsid(pid) == pid
        assert platform.slots()["blue"].alive

    def test_secrets_are_in_the_environment_alone(self, platform: Processes, commits: Sequence[str]) -> None:
        platform.start("blue", commits[0])
        answer = heals(platform, "blue")
        names = answer.body.decode()
        assert '"SECRET"' in names
        assert not [name for name in ("PREFECT", "PYTEST", "VIRTUAL_ENV") if name in names]
        assert not [words for words in command_lines().values() if any(SECRET in word for word in words)]
        shown = [repr(platform), str(platform), platform.check(), platform.words("blue")]
        assert not [text for text in shown if SECRET in text]
        assert not [path for path in Path(platform.folder).glob("slots/*") if SECRET in path.read_text()]

    def test_a_release_that_died_is_seen_and_can_be_replaced(self, platform: Processes, commits: Sequence[str]) -> None:
        platform.start("blue", commits[0])
        heals(platform, "blue")
        os.kill(platform.slots()["blue"].pids[0], 9)
        eventually(lambda: not platform.slots()["blue"].alive)
        platform.start("blue", commits[1])
        assert heals(platform, "blue").release == commits[1]

    def test_what_was_started_and_not_stopped_is_revived(self, platform: Processes, commits: Sequence[str]) -> None:
        platform.start("blue", commits[0])
        platform.start("green", commits[1])
        platform.stop("green")
        platform.pause("blue")
        assert not platform.slots()["blue"].alive
        assert platform.revive() == ["blue"]
        assert heals(platform, "blue").release == commits[0]
        assert platform.revive() == []
        assert not platform.slots()["green"].alive

    def test_pruning_keeps_what_lives_what_is_to_live_and_what_is_named(
        self, platform: Processes, commits: Sequence[str], tmp_path: Path
    ) -> None:
        more = [commit(tmp_path / "repository", text) for text in ("third", "fourth")]
        builds = {each: platform.build(each) for each in (*commits, *more)}
        platform.start("blue", commits[0])
        platform.start("green", commits[1])
        platform.pause("green")
        assert platform.prune_builds([more[0]]) == [more[1]]
        assert [build.exists() for build in builds.values()] == [True, True, True, False]
        assert platform.build(more[1]).exists()
