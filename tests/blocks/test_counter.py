"""The counter process behind a real HAProxy, and what its readers are told."""

import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite

from blocks.counter import BUCKETS, Counter, Served
from blocks.counting import KEPT_S, Counting
from blocks.errors import Unreachable
from blocks.histogram import bucket_of
from deployments.local.balancer import Balancer
from deployments.local.running import Running
from tests.parts.processes import eventually
from tests.parts.traffic import Crowd, ask

pytest_plugins = ["tests.parts.traffic"]
ALL = ("blue", "green", "-")
NOW = 1_795_000_000  # some second, for what is written into a file


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return Counter

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """It has none, and needs none."""


@dataclass(frozen=True)
class Scene:
    """A counter process, and the block that reads what it counted."""

    process: Running
    port: int
    file: Path

    @property
    def block(self) -> Counter:
        return Counter(file=str(self.file))

    def start(self) -> "Scene":
        command = [sys.executable, "-m", "blocks.counting", "--port", str(self.port), "--file", str(self.file)]
        before = self.lives()
        self.process.start(command, {"PATH": os.defpath})
        self.process.await_ready(lambda: self.lives() > before, 20, "the counter")
        return self

    def lives(self) -> int:
        """How often it began; it says so when it listens."""
        if not self.file.exists():
            return 0
        with closing(sqlite3.connect(self.file)) as file, suppress(sqlite3.OperationalError):
            return file.execute("select count(*) from life").fetchone()[0]
        return 0

    def counts_until(self, end: float) -> bool:
        """Whether it said that all is counted until then."""
        with suppress(Unreachable):
            return self.block.seconds((), at(end - 1), at(end)) == []
        return False

    def kill(self) -> None:
        os.kill(json.loads((self.process.folder / "counter.json").read_text())["pid"], signal.SIGKILL)
        eventually(lambda: not self.process.alive())

    def say(self, *lines: str | bytes) -> None:
        """As HAProxy does."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for line in lines:
                sending.sendto(line if isinstance(line, bytes) else line.encode(), ("127.0.0.1", self.port))

    def total(self) -> dict[str, tuple[int, int]]:
        """Requests and errors by server, of all that was committed."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.everything():
            n, errors = found.get(one.server, (0, 0))
            found[one.server] = (n + one.n, errors + one.errors)
        return found

    def everything(self) -> list[Served]:
        """Whatever was committed, silent or not."""
        with closing(sqlite3.connect(self.file)) as file:
            rows = file.execute("select at, server, n, errors, hist from served order by at, server").fetchall()
        return [
            Served(at, server, n, errors, tuple(json.loads(hist).get(str(b), 0) for b in range(BUCKETS)))
            for at, server, n, errors, hist in rows
        ]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Scene]:
    """A counter that nobody talks to but the test."""
    made = Scene(Running(tmp_path / "counting", "counter"), udp_port(), tmp_path / "counter.sqlite").start()
    yield made
    made.process.stop()


@pytest.fixture
def counted(balancer: Balancer, slots: dict[str, "subprocess.Popen[bytes]"], tmp_path: Path) -> Iterator[Scene]:
    """A counter that a real HAProxy talks to."""
    made = Scene(Running(tmp_path / "counting", "counter"), balancer.log_port, tmp_path / "counter.sqlite").start()
    yield made
    made.process.stop()


def udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def line(server: str = "blue", status: int = 200, ended: float = 0, ta_ms: float = 7, term: str = "----") -> str:
    """A request that ended so many seconds from now."""
    row = {"t": round(time.time() + ended - 1, 3), "s": server, "st": status, "ta": ta_ms, "tt": 1000, "term": term}
    return json.dumps(row)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# Behind a real HAProxy


def test_the_totals_are_what_clients_were_told(balancer: Balancer, counted: Scene) -> None:
    port, began = balancer.ports["frontend"], time.time()
    balancer.block.shift({"blue": 50, "green": 50})
    crowds = [Crowd(port), Crowd(port, "/error"), Crowd(port, "/", "POST")]
    for crowd in crowds:
        with crowd.asking(4):
            crowd.reach(150)
    sent, failed = sum(len(crowd.answers) for crowd in crowds), len(crowds[1].answers)
    assert sent > 450
    eventually(lambda: sum(n for n, _ in counted.total().values()) == sent, 5)
    found = counted.total()
    assert sum(errors for _, errors in found.values()) == failed
    assert set(found) == {"blue", "green"}
    for name in found:
        assert found[name][0] - found[name][1] == crowds[0].of(name) + crowds[2].of(name)
    end = int(time.time()) + 1
    eventually(lambda: counted.counts_until(end), 5)
    seconds = counted.block.seconds(ALL, at(int(began)), at(end))
    assert sum(one.n for one in seconds) == sent
    assert all(sum(one.hist) == one.n for one in seconds)


def test_an_answers_time_is_in_its_bucket_and_its_end_in_its_second(balancer: Balancer, counted: Scene) -> None:
    answers = [ask(balancer.ports["frontend"], f"/?s={seconds}") for seconds in (0.3, 1.1)]
    eventually(lambda: counted.total() == {"blue": (2, 0)}, 5)
    for answer, one in zip(answers, counted.everything(), strict=True):
        [bucket] = [bucket for bucket, count in enumerate(one.hist) if count]
        assert bucket_of(answer.seconds) - 2 <= bucket <= bucket_of(answer.seconds)
        assert abs(one.at + 0.5 - (answer.began + answer.seconds)) < 0.7


def test_a_client_that_was_idle_before_its_request_does_not_move_it_into_the_past(
    balancer: Balancer, counted: Scene
) -> None:
    import http.client

    kept = http.client.HTTPConnection("127.0.0.1", balancer.ports["frontend"])
    ended = list[int]()
    for pause in (0, 3):
        time.sleep(pause)
        kept.request("GET", "/")
        kept.getresponse().read()
        ended.append(int(time.time()))
    kept.close()
    eventually(lambda: counted.total() == {"blue": (2, 0)}, 5)
    seen = [one.at for one in counted.everything()]
    assert all(abs(one - wanted) <= 1 for one, wanted in zip(seen, ended, strict=True))
    assert seen[1] - seen[0] >= 2


def test_a_dead_server_is_seen_under_the_name_of_nobody(
    balancer: Balancer, counted: Scene, slots: dict[str, "subprocess.Popen[bytes]"]
) -> None:
    for process in slots.values():
        process.kill()
    eventually(lambda: not balancer.block.checked("blue"))
    told = [ask(balancer.ports["frontend"]).status for _ in range(30)]
    assert told == [503] * 30
    eventually(lambda: counted.total() == {"-": (30, 30)}, 5)


def test_a_server_that_dies_with_requests_is_the_one_that_failed(
    balancer: Balancer, counted: Scene, slots: dict[str, "subprocess.Popen[bytes]"]
) -> None:
    crowd = Crowd(balancer.ports["frontend"], "/?s=1", "POST")
    asking = threading.Thread(target=crowd.once, args=(5,))
    asking.start()
    eventually(lambda: balancer.block.in_flight("blue") == 5)
    time.sleep(0.2)  # until all five were sent on
    slots["blue"].kill()
    asking.join()
    eventually(lambda: counted.total().get("blue") == (5, 5), 5)


def test_a_scanner_whom_the_balancer_itself_answers_is_no_request(balancer: Balancer, counted: Scene) -> None:
    for nonsense in (b"NOT HTTP AT ALL\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", balancer.ports["frontend"]), timeout=10) as scanner:
            scanner.sendall(nonsense)
            assert b"".join(iter(lambda: scanner.recv(4096), b"")).startswith(b"HTTP/1.1 400 ")
    assert ask(balancer.ports["frontend"]).status == 200
    eventually(lambda: counted.total() == {"blue": (1, 0)}, 5)


def test_a_clients_abort_is_no_request(balancer: Balancer, counted: Scene) -> None:
    with socket.create_connection(("127.0.0.1", balancer.ports["frontend"])) as client:
        client.sendall(b"GET /?s=1 HTTP/1.1\r\nHost: here\r\n\r\n")
        eventually(lambda: balancer.block.in_flight("blue") == 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it goes by a reset
    eventually(lambda: balancer.block.in_flight("blue") == 0)
    assert ask(balancer.ports["frontend"]).status == 200
    eventually(lambda: counted.total() == {"blue": (1, 0)}, 5)
    time.sleep(1.2)
    assert counted.total() == {"blue": (1, 0)}


def test_a_slow_answer_is_seen_when_its_client_did_not_wait_for_it(balancer: Balancer, counted: Scene) -> None:
    assert ask(balancer.ports["frontend"], "/?s=1", timeout=0.2).status == 0
    eventually(lambda: counted.total() == {"blue": (1, 0)}, 5)
    [one] = counted.everything()
    assert sum(one.hist[bucket_of(1.0) :]) == 1


# What it reads


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (line(), {"blue": (1, 0)}),
        (line(status=500), {"blue": (1, 1)}),
        (line(status=503, server="<NOSRV>", term="SC--"), {"-": (1, 1)}),
        (line(status=502, server="<NOSRV>", term="PH--"), {"-": (1, 1)}),
        (line(status=400, server="<NOSRV>", term="PR--"), {}),
        (line(status=200, server="<STATS>", term="LR--"), {}),
        (line(status=404), {"blue": (1, 0)}),
        (line(status=200, term="SD--"), {"blue": (1, 1)}),
        (line(status=504, term="sH--"), {"blue": (1, 1)}),
        (line(status=200, term="CD--"), {}),
        (line(status=408, term="cR--"), {}),
    ],
    ids=[
        "ok",
        "error",
        "nobody",
        "proxy",
        "bad request",
        "stats",
        "not found",
        "broken off",
        "time-out",
        "abort",
        "idle client",
    ],
)
def test_what_counts_and_for_whom(tmp_path: Path, said: str, seen: dict[str, tuple[int, int]]) -> None:
    made = Scene(Running(tmp_path, "none"), 0, tmp_path / "file")
    with closing(Counting(made.file)) as counting:
        counting.line(said.encode())
        counting.commit(time.time())
    assert made.total() == seen


def test_notices_pass_and_malformed_lines_are_counted_and_not_fatal(alone: Scene) -> None:
    alone.say("Server api/blue is DOWN, reason: Layer4 connection problem", b"\xff\xfe\x00", b"")
    alone.say(
        "{}",
        '{"t":1}',
        "{",
        line().replace("200", '"x"'),
        line().replace('"tt": 1000', '"tt": NaN'),
        line().replace('"tt": 1000', '"tt": 1e400'),
        line().replace('"tt": 1000', '"tt": 1e15'),
        line(ended=-200_000),
        '{"t": "' + "9" * 1000,
    )
    alone.say(line(), "<134>haproxy: " + line("green"))
    eventually(lambda: alone.total() == {"blue": (1, 0), "green": (1, 0)}, 5)
    assert alone.block.check().endswith(", 9 lines that it could not read.")


def test_a_line_that_comes_late_is_added_to_its_second(alone: Scene) -> None:
    second = int(time.time()) - 90
    late = json.dumps({"t": second, "s": "blue", "st": 200, "ta": 20, "tt": 20, "term": "----"})
    for sent in (1, 2):
        alone.say(late)
        eventually(lambda sent=sent: alone.total() == {"blue": (sent, 0)}, 5)
        time.sleep(1.1)
    [one] = alone.everything()
    assert (one.at, one.n, one.hist[bucket_of(0.02)]) == (second, 2, 2)


def test_a_kill_loses_at_most_the_last_second_and_the_next_life_adds_to_it(alone: Scene) -> None:
    sent, over = list[float](), threading.Event()

    def send() -> None:
        while not over.wait(0.002):
            alone.say(line())
            sent.append(time.time())

    sending = threading.Thread(target=send)
    sending.start()
    time.sleep(2.5)
    alone.kill()
    killed = time.time()
    over.set()
    sending.join()
    kept = alone.total()["blue"][0]
    assert sum(when < killed - 1.4 for when in sent) <= kept <= len(sent)
    alone.start()
    alone.say(*[line(ended=killed - time.time() - 1)] * 10)
    eventually(lambda: alone.total()["blue"][0] == kept + 10, 5)


def test_a_counter_told_to_end_loses_nothing(alone: Scene) -> None:
    alone.say(*[line()] * 500)
    time.sleep(0.3)
    alone.process.stop()
    assert alone.total() == {"blue": (500, 0)}


def test_a_burst_is_counted_whole(alone: Scene) -> None:
    for _ in range(20):
        alone.say(*[line()] * 250)
        time.sleep(0.02)
    eventually(lambda: alone.total().get("blue") == (5000, 0), 10)


def test_what_is_older_than_eight_days_goes(tmp_path: Path) -> None:
    made = Scene(Running(tmp_path, "none"), 0, tmp_path / "file")
    with closing(Counting(made.file)) as counting:
        counting.line(line(ended=-5).encode())
        counting.commit(time.time() + KEPT_S - 60)
        assert made.total() == {"blue": (1, 0)}
        counting.commit(time.time() + KEPT_S + 60)
    assert made.total() == {}


# What its readers are told


@contextmanager
def written(tmp_path: Path, *lives: tuple[float, float]) -> Generator["tuple[Counter, sqlite3.Connection]"]:
    """A file with these lives, in seconds from now, and a heartbeat of now."""
    path, now = tmp_path / "counter.sqlite", time.time()
    Counting(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("insert into counter (one, beat, garbled) values (1, ?, 0)", [now])
        file.executemany("insert into life values (?, ?)", [(now + began, now + beat) for began, beat in lives])
        yield Counter(file=str(path)), file


def test_no_request_is_an_empty_list(tmp_path: Path) -> None:
    with written(tmp_path, (-60, 0)) as (counter, _):
        assert counter.seconds(ALL, at(time.time() - 30), at(time.time() - 20)) == []


@pytest.mark.parametrize(
    ("lives", "silent"),
    [
        (((-60, 0),), False),
        (((-60, -25.5), (-24.5, 0)), False),
        (((-60, -27), (-24, 0)), True),
        (((-60, -22),), True),
        (((-27, 0),), True),
        ((), True),
    ],
    ids=["whole", "restarted", "gap", "late", "began after", "never"],
)
def test_time_that_nobody_counted_is_unreachable(
    tmp_path: Path, lives: tuple[tuple[float, float], ...], *, silent: bool
) -> None:
    start, end = at(time.time() - 30), at(time.time() - 20)
    with written(tmp_path, *lives) as (counter, _):
        if silent:
            with pytest.raises(Unreachable, match=r"nothing was counted from .* UTC to .* UTC"):
                counter.seconds(ALL, start, end)
        else:
            assert counter.seconds(ALL, start, end) == []
        assert [one.n for one in counter.minutes(ALL, end - timedelta(minutes=2), end)] == [0, 0]


def test_a_silent_counter_is_unreachable_and_never_no_errors(tmp_path: Path, alone: Scene) -> None:
    end = datetime.now(UTC)
    asked: list[Callable[[], object]] = [
        alone.block.check,
        lambda: alone.block.seconds(ALL, end - timedelta(seconds=9), end),
        lambda: alone.block.minutes(ALL, end - timedelta(minutes=9), end),
        lambda: alone.block.totals(ALL, end - timedelta(minutes=9), end),
    ]
    alone.process.stop()
    with closing(sqlite3.connect(alone.file, isolation_level=None)) as file:
        file.execute("update counter set beat = beat - 6")
    for ask_it in asked:
        with pytest.raises(Unreachable, match=r"the counter has been silent since \d{4}-\d\d-\d\d .* UTC"):
            ask_it()
    alone.file.write_bytes(b"no database at all, but long enough to be looked at")
    for ask_it in asked:
        with pytest.raises(Unreachable, match="cannot be read"):
            ask_it()
    for left in alone.file.parent.glob("counter.sqlite*"):
        left.unlink()
    for ask_it in asked:
        with pytest.raises(Unreachable, match="there is no counter at"):
            ask_it()


def test_minutes_are_counted_back_from_the_end_and_summed_over_the_servers(tmp_path: Path) -> None:
    with written(tmp_path, (-600, 0)) as (counter, file):
        for back, server, n, errors, hist in [
            (1, "blue", 3, 1, {"5": 2, "60": 1}),
            (60, "-", 1, 1, {"5": 1}),
            (61, "blue", 7, 0, {"0": 7}),
            (62, "green", 9, 9, {"0": 9}),
            (181, "blue", 8, 8, {"0": 8}),
        ]:
            file.execute("insert into served values (?, ?, ?, ?, ?)", [NOW - back, server, n, errors, json.dumps(hist)])
        found = counter.minutes(("blue", "-"), at(NOW - 180), at(NOW))
        assert [(one.at - NOW, one.n, one.errors) for one in found] == [(-180, 0, 0), (-120, 7, 0), (-60, 4, 2)]
        assert (found[2].hist[5], found[2].hist[60], sum(found[2].hist), len(found[0].hist)) == (3, 1, 4, BUCKETS)


@contextmanager
def a_week(tmp_path: Path) -> Generator[tuple[Counter, datetime, datetime]]:
    """A counter that served on most seconds of it, 25 requests in each; its begin and its end."""
    hist = json.dumps({str(bucket): 1 for bucket in range(14, 39)})
    with written(tmp_path, (-600, 0)) as (counter, file):
        rows = ((NOW - back, "blue", 25, back % 40 == 1, hist) for back in range(1, 7 * 86_400, 8))
        file.execute("begin")
        file.executemany("insert into served values (?, ?, ?, ?, ?)", rows)
        file.execute("commit")
        yield counter, at(NOW - 7 * 86_400), at(NOW)


def bytes_read(ask_it: Callable[[], object]) -> int:
    """By this thread, of whatever file: a reader of the counter begins with nothing in its memory."""

    def so_far() -> int:
        return int(Path("/proc/thread-self/io").read_text().split()[1])

    before = so_far()
    ask_it()
    return so_far() - before


def written_bytes(tmp_path: Path) -> int:
    return sum(each.stat().st_size for each in tmp_path.glob("counter.sqlite*"))


def test_a_week_is_summed_without_its_histograms(tmp_path: Path) -> None:
    with a_week(tmp_path) as (counter, start, end):
        assert counter.totals(("blue", "-"), start, end) == (25 * 75_600, 15_120)
        assert counter.totals(("blue", "-"), end - timedelta(seconds=9), end) == (50, 1)
        assert counter.totals(("green",), start, end) == (0, 0)
        assert bytes_read(lambda: counter.totals(("blue", "-"), start, end)) < written_bytes(tmp_path) / 12


def test_the_newest_minutes_of_a_week_are_read_without_the_rest(tmp_path: Path) -> None:
    with a_week(tmp_path) as (counter, start, end):
        back = counter.minutes_back(("blue", "-"), start, end)
        assert bytes_read(lambda: next(back)) < written_bytes(tmp_path) / 50
        assert bytes_read(lambda: [next(back) for _ in range(59)]) < 1000


def test_minutes_back_are_the_minutes_newest_first(tmp_path: Path) -> None:
    with a_week(tmp_path) as (counter, _, end):
        for seconds in (59, 60, 3599, 3600, 9000, 9031):
            start = end - timedelta(seconds=seconds)
            back = list(counter.minutes_back(("blue", "-"), start, end))
            assert back == counter.minutes(("blue", "-"), start, end)[::-1]
            assert len(back) == seconds // 60


def test_reading_does_not_disturb_counting(alone: Scene) -> None:
    for _ in range(50):
        alone.say(*[line()] * 10)
        alone.block.check()
    eventually(lambda: alone.total() == {"blue": (500, 0)}, 5)


def test_a_port_that_is_taken_ends_it_with_a_reason(alone: Scene, tmp_path: Path) -> None:
    again = Scene(Running(tmp_path / "again", "counter"), alone.port, tmp_path / "again.sqlite")
    with pytest.raises(Unreachable, match=r"the counter ended while it was starting: .*Address already in use"):
        again.start()
