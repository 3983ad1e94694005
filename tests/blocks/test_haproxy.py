"""The runtime socket of real HAProxies: the wheel's, and Debian's where it is installed."""

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite

from blocks.errors import Garbled, Refused, Unreachable
from blocks.haproxy import HAProxy
from deployments.local.balancer import Balancer, haproxy
from tests.parts.processes import eventually
from tests.parts.traffic import Crowd, ask, release

pytest_plugins = ["tests.parts.traffic"]
Processes = dict[str, "subprocess.Popen[bytes]"]
OTHERS = """\
    server own    127.0.0.1:1 check
    server agent  127.0.0.1:1 agent-check agent-port 1
    server tracks 127.0.0.1:1 track api/own
    server held   127.0.0.1:1 check disabled
"""


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return HAProxy

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's own fetches it from the net."""
        assert str(getattr(block, "_logo_url", None)).startswith("https://")


def port(balancer: Balancer) -> int:
    return balancer.ports["frontend"]


def answers(balancer: Balancer) -> bool:
    with contextlib.suppress(Unreachable):
        return bool(balancer.block.servers())
    return False


@contextmanager
def another(balancer: Balancer, change: Callable[[str], str]) -> Generator[None]:
    """In the balancer's place, with another configuration than ours."""
    balancer.stop()
    configuration = balancer.folder / "haproxy.cfg"
    configuration.write_text(change(configuration.read_text()))
    process = subprocess.Popen([balancer.binary or haproxy(), "-f", str(configuration)])
    try:
        eventually(lambda: answers(balancer))
        yield
    finally:
        process.terminate()
        process.wait()


def executed(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("*/executed"))


# What it sees


def test_a_server_is_seen_as_it_is(balancer: Balancer, slots: Processes) -> None:
    blue, green = balancer.block.servers().values()
    assert (blue.name, blue.address, blue.port) == ("blue", "127.0.0.1", balancer.slots["blue"])
    assert (blue.weight, blue.state, blue.check, blue.up, blue.in_flight) == (100, "ready", "L7OK", True, 0)
    assert (green.weight, green.share, green.up) == (0, 0, True)
    assert balancer.block.shares() == {"blue": 100, "green": 0}


def test_a_dead_server_has_not_passed_its_check(balancer: Balancer, tmp_path: Path) -> None:
    with release("blue", balancer.slots["blue"], tmp_path / "blue") as blue:
        eventually(lambda: balancer.block.checked("blue"))
        assert not balancer.block.checked("green")
        blue.kill()
        eventually(lambda: not balancer.block.checked("blue"))
    assert balancer.block.servers()["blue"].check == "L4CON"


def test_a_sick_server_has_not_passed_its_check(balancer: Balancer, slots: Processes, tmp_path: Path) -> None:
    (tmp_path / "green" / "sick").touch()
    eventually(lambda: not balancer.block.checked("green"))
    assert balancer.block.servers()["green"].check == "L7STS"


def test_maintenance_serves_nothing(balancer: Balancer, slots: Processes) -> None:
    balancer.block.shift({"green": 50})
    balancer.block.tell("set server api/green state maint")
    green = balancer.block.servers()["green"]
    assert (green.state, green.weight, green.share, green.up) == ("maint", 50, 0, False)
    balancer.block.shift({"green": 50})
    assert balancer.block.shares()["green"] == 50


def test_a_server_whose_health_haproxy_does_not_ask_for_is_told(balancer: Balancer) -> None:
    assert [server.has_check for server in balancer.block.servers().values()] == [True, True]
    with another(balancer, lambda text: text.replace("default-server check", "default-server") + OTHERS):
        found = balancer.block.servers()
        assert {name: server.has_check for name, server in found.items()} == {
            "blue": False, "green": False, "own": True, "agent": False, "tracks": False, "held": True,
        }  # fmt: skip
        assert (found["green"].up, found["green"].check, balancer.block.checked("green")) == (True, "", False)
        assert "green 0 (ready, no check, 0 in flight)" in balancer.block.check()
        assert "held 0 (maint, no result yet, 0 in flight)" in balancer.block.check()
        balancer.block.tell("disable health api/own")
        assert not balancer.block.servers()["own"].has_check


def test_the_check_is_one_sentence(balancer: Balancer, slots: Processes) -> None:
    balancer.block.shift({"blue": 0, "green": 100})
    assert re.fullmatch(
        r"HAProxy at \S+/admin.sock answers; backend api: "
        r"blue 0 \(drain, L7OK, 0 in flight\), green 100 \(ready, L7OK, 0 in flight\)\.",
        balancer.block.check(),
    )


# What it shifts


def test_shifts_under_load_fail_no_request(balancer: Balancer, slots: Processes) -> None:
    positions = [(95, 5), (50, 50), (0, 100), (100, 0), (0, 100)]
    with Crowd(port(balancer)).asking(6) as crowd:
        for blue, green in positions:
            balancer.block.shift({"blue": blue, "green": green})
            assert balancer.block.shares() == {"blue": blue, "green": green}
            crowd.reach(200)
        after = time.time()
        crowd.reach(100)
    assert len(crowd.answers) > 1000
    assert crowd.failed == []
    assert crowd.of("blue", since=after) == 0
    assert crowd.of("green", since=after) > 90


def test_a_weight_is_the_share_of_the_requests(balancer: Balancer, slots: Processes) -> None:
    balancer.block.shift({"blue": 75, "green": 25})
    told = [ask(port(balancer)).release for _ in range(100)]
    assert 73 <= told.count("blue") <= 77


def test_a_drained_server_serves_again_with_its_new_weight_alone(balancer: Balancer, slots: Processes) -> None:
    for shares in ({"blue": 0, "green": 100}, {"blue": 5, "green": 95}):
        balancer.block.shift(shares)
    assert balancer.block.shares() == {"blue": 5, "green": 95}


def test_at_no_moment_of_a_shift_nothing_would_serve(balancer: Balancer, slots: Processes) -> None:
    sums, over = list[int](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            sums.append(sum(balancer.block.shares().values()))

    watching = threading.Thread(target=watch)
    watching.start()
    for _ in range(50):
        balancer.block.shift({"blue": 0, "green": 100})
        balancer.block.shift({"blue": 100, "green": 0})
    over.set()
    watching.join()
    assert len(sums) > 20
    assert min(sums) >= 100


def test_who_dies_while_shifting_leaves_servers_serving_and_shifting_again_settles_it(
    balancer: Balancer, slots: Processes
) -> None:
    line = b"set server api/green weight 100;set server api/green state ready;set server api/blue state drain\n"
    for _ in range(50):
        balancer.block.shift({"blue": 100, "green": 0})
        with socket.socket(socket.AF_UNIX) as dying:
            dying.connect(balancer.block.socket)
            dying.sendall(line)
        left = balancer.block.shares()
        assert left in ({"blue": 100, "green": 0}, {"blue": 100, "green": 100}, {"blue": 0, "green": 100})
        balancer.block.shift({"blue": 0, "green": 100})
        assert balancer.block.shares() == {"blue": 0, "green": 100}


def test_draining_lets_slow_requests_finish(balancer: Balancer, slots: Processes, tmp_path: Path) -> None:
    for method in ("GET", "POST"):
        balancer.block.shift({"blue": 100, "green": 0})
        crowd = Crowd(port(balancer), "/?s=1", method)
        asking = threading.Thread(target=crowd.once, args=(10,))
        asking.start()
        eventually(lambda: balancer.block.in_flight("blue") == 10)
        balancer.block.shift({"blue": 0, "green": 100})
        assert balancer.block.in_flight("blue") == 10
        assert ask(port(balancer)).release == "green"
        asking.join()
        eventually(lambda: balancer.block.in_flight("blue") == 0, 5)
        assert crowd.of("blue") == 10
        assert crowd.failed == []
    assert executed(tmp_path) == 10


def test_a_post_is_never_executed_twice(balancer: Balancer, slots: Processes, tmp_path: Path) -> None:
    balancer.block.shift({"blue": 100, "green": 100})
    crowd = Crowd(port(balancer), "/?s=2", "POST")
    asking = threading.Thread(target=crowd.once, args=(10,))
    asking.start()
    eventually(lambda: executed(tmp_path) == 10)
    slots["blue"].kill()
    asking.join()
    assert [answer.status for answer in crowd.failed] == [502] * 5
    assert executed(tmp_path) == 10


def test_a_get_is_tried_again_elsewhere_when_its_server_dies(balancer: Balancer, slots: Processes) -> None:
    balancer.block.shift({"blue": 100, "green": 100})
    crowd = Crowd(port(balancer), "/?s=1")
    asking = threading.Thread(target=crowd.once, args=(10,))
    asking.start()
    eventually(lambda: balancer.block.in_flight("blue") == 5)
    slots["blue"].kill()
    asking.join()
    assert crowd.failed == []
    assert crowd.of("green") == 10


# What it refuses


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({"red": 1, "blue": 0}, "backend api has no server red: it has blue, green"),
        ({"blue": 0, "green": 0}, "nothing of backend api would serve with"),
        ({"blue": 0}, "nothing of backend api would serve with"),
        ({"blue": 257}, "a weight of HAProxy is 0 to 256, not"),
        ({"green": -1}, "a weight of HAProxy is 0 to 256, not"),
    ],
)
def test_a_shift_that_cannot_be_is_refused_before_any_effect(
    balancer: Balancer, shares: dict[str, int], sentence: str
) -> None:
    with pytest.raises(Refused, match=sentence):
        balancer.block.shift(shares)
    assert balancer.block.shares() == {"blue": 100, "green": 0}


def test_an_unknown_server_or_backend_is_refused(balancer: Balancer) -> None:
    for ask_of in (balancer.block.in_flight, balancer.block.checked):
        with pytest.raises(Refused, match="has no server red"):
            ask_of("red")
    with pytest.raises(Refused, match=r"`show servers state nowhere` with: Can't find backend\."):
        HAProxy(socket=balancer.block.socket, backend="nowhere").servers()


def test_a_socket_without_the_right_to_change_is_refused_by_what_haproxy_says(balancer: Balancer) -> None:
    with another(balancer, lambda text: text.replace("level admin", "level operator")):
        with pytest.raises(Refused, match="HAProxy answered `set server api/green weight 5` with: Permission denied"):
            balancer.block.shift({"green": 5})
        assert balancer.block.shares() == {"blue": 100, "green": 0}


# What goes wrong


@contextmanager
def saying(path: Path, answer: bytes | None) -> Generator[HAProxy]:
    """A socket that says this to everything, or nothing."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    if answer is None:
                        time.sleep(0.5)
                    else:
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield HAProxy(socket=str(path), timeout_s=0.2)
        listening.shutdown(socket.SHUT_RDWR)


def test_no_answer_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"HAProxy does not answer at .*: No such file or directory"):
        HAProxy(socket=str(tmp_path / "none")).servers()
    with saying(tmp_path / "silent", None) as silent, pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        silent.shares()
    for part in (b"", b"1\n# be_id"):
        with (
            saying(tmp_path / f"short{len(part)}", part) as broken,
            pytest.raises(Unreachable, match="broke off"),
        ):
            broken.shares()


def test_an_answer_of_another_shape_is_garbled(tmp_path: Path) -> None:
    with (
        saying(tmp_path / "other", b"1\n# srv_name srv_port\nblue 80\n\n# pxname,svname\napi,blue\n\n") as other,
        pytest.raises(Garbled, match="list of the servers of api cannot be read"),
    ):
        other.servers()


def test_a_stopped_balancer_is_unreachable(balancer: Balancer) -> None:
    balancer.stop()
    with pytest.raises(Unreachable):
        balancer.block.check()
