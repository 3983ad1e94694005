"""A declared command ends with its exit code, at its time-out, or with who asked for it; it leaves nothing behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blocks.commands import TIMED_OUT, run
from blocks.errors import Garbled, Missing

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "CANARY": "canary-of-commands"}
LINGERS = 'echo begun; sleep 300 & echo "$!" > child; wait'


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # it ended meanwhile


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def child_of(folder: Path) -> int:
    deadline = time.monotonic() + 10
    while not (folder / "child").exists() or not (folder / "child").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int((folder / "child").read_text())


@pytest.mark.parametrize("code", [0, 1, 7])
def test_its_exit_code_is_what_counts(tmp_path: Path, code: int) -> None:
    done = run(f"sh -c 'echo no pending migrations; exit {code}'", tmp_path, limit_s=10, environment=ENVIRONMENT)
    assert (done.code, done.last_words) == (code, "no pending migrations")


def test_what_is_read_of_it_is_its_standard_output_alone_and_whole(tmp_path: Path) -> None:
    done = run("sh -c 'echo warn >&2; echo []'", tmp_path, limit_s=10, environment=ENVIRONMENT)
    assert (done.output, done.last_words) == ("[]\n", "[]")
    done = run("sh -c 'seq 100000; echo warn >&2'", tmp_path, limit_s=10, environment=ENVIRONMENT)
    assert done.output.split() == [str(each) for each in range(1, 100_001)]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo a summary; echo boom >&2; exit 1", "boom"),
        ("echo a warning >&2; sleep 0.1; echo 1 of 7 failed; exit 1", "1 of 7 failed"),
        ("echo all is well; sleep 0.1; echo deprecated >&2", "deprecated"),
        ("echo boom >&2; exit 1", "boom"),
        ("echo fine; echo", "fine"),
        ("exit 1", "it said nothing"),
    ],
)
def test_its_last_words_are_on_whichever_stream_it_used_last(tmp_path: Path, command: str, words: str) -> None:
    assert run(f"sh -c '{command}'", tmp_path, limit_s=10, environment=ENVIRONMENT).last_words == words


def test_more_than_can_be_read_fails_who_reads_it_and_nobody_else(tmp_path: Path) -> None:
    done = run("sh -c 'seq 1300000; sleep 0.1; echo done >&2'", tmp_path, limit_s=10, environment=ENVIRONMENT)
    assert (done.code, done.last_words) == (0, "done")
    with pytest.raises(Garbled, match=r"printed 9\.3 MB, more than the 8\.0 MB that are read: let it print less"):
        assert done.output


def test_it_sees_what_it_is_given_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_OURS", "never")
    said = run("env", tmp_path, limit_s=10, environment=ENVIRONMENT).output
    assert "CANARY=canary-of-commands" in said
    assert "OF_OURS" not in said


def test_at_its_time_out_it_ends_with_all_that_it_started(tmp_path: Path) -> None:
    done = run(f"sh -c '{LINGERS}'", tmp_path, limit_s=0.5, environment=ENVIRONMENT)
    assert (done.code, done.last_words) == (TIMED_OUT, "begun")
    assert gone(child_of(tmp_path))


def test_what_it_leaves_behind_is_ended(tmp_path: Path) -> None:
    run("sh -c 'sleep 300 & echo $! > child'", tmp_path, limit_s=10, environment=ENVIRONMENT)
    assert gone(child_of(tmp_path))


def test_it_ends_with_whoever_asked_for_it(tmp_path: Path) -> None:
    command = f"sh -c '{LINGERS}'"
    asks = f"from pathlib import Path; from blocks.commands import run; run({command!r}, Path({str(tmp_path)!r}), "
    asks += f"limit_s=300, environment={ENVIRONMENT!r})"
    with subprocess.Popen([sys.executable, "-c", asks], cwd=Path(__file__).parents[2]) as asker:
        child = child_of(tmp_path)
        lines = [file for file in Path("/proc").glob("[0-9]*/cmdline") if file.parent.name != str(asker.pid)]
        assert not [file for file in lines if b"canary-of-commands" in read(file)]
        asker.send_signal(signal.SIGKILL)
    assert gone(child)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no program 'nowhere' here"):
        run("nowhere --now", tmp_path, limit_s=10, environment=ENVIRONMENT)
