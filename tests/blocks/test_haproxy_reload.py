"""The local stage's load balancer: what outlives a reload, a `down` and an `up`."""

import socket
import subprocess
from pathlib import Path

import pytest

from blocks.errors import Refused, Unreachable
from deployments.local.balancer import Balancer
from tests.parts.processes import eventually
from tests.parts.traffic import Crowd, ask, release

pytest_plugins = ["tests.parts.traffic"]
Slots = dict[str, "subprocess.Popen[bytes]"]


def test_a_reload_under_load_fails_no_request_and_keeps_the_weights(balancer: Balancer, slots: Slots) -> None:
    balancer.block.shift({"blue": 30, "green": 70})
    with Crowd(balancer.ports["frontend"]).asking(4) as crowd:
        for _ in range(2):
            crowd.reach(150)
            balancer.reload()
            assert balancer.block.shares() == {"blue": 30, "green": 70}
        crowd.reach(150)
    assert crowd.failed == []
    balancer.block.shift({"blue": 0, "green": 70})
    balancer.reload()
    assert balancer.block.servers()["blue"].state == "drain"
    assert {ask(balancer.ports["frontend"]).release for _ in range(20)} == {"green"}


def test_a_reload_lets_requests_in_flight_finish(balancer: Balancer, slots: Slots) -> None:
    crowd = Crowd(balancer.ports["frontend"], "/?s=1", "POST")
    with crowd.asking(5):
        crowd.over.set()
        eventually(lambda: balancer.block.in_flight("blue") == 5)
        balancer.reload()
    assert len(crowd.answers) == 5
    assert crowd.failed == []


def test_a_configuration_that_haproxy_does_not_take_is_refused_and_the_old_one_serves(
    balancer: Balancer, slots: Slots
) -> None:
    with pytest.raises(Refused, match=r"HAProxy does not take its configuration, .*nonsense"):
        balancer.reload(health="/health\n    nonsense")
    assert ask(balancer.ports["frontend"]).release == "blue"


def test_ports_and_weights_outlive_down_and_up(balancer: Balancer, slots: Slots) -> None:
    balancer.block.shift({"blue": 0, "green": 40})
    ports, again = dict(balancer.ports), Balancer(balancer.folder, binary=balancer.binary)
    again.start()
    assert again.block.shares() == {"blue": 0, "green": 40}
    balancer.stop()
    balancer.stop()
    with pytest.raises(Unreachable):
        balancer.block.shares()
    again.start()
    assert dict(again.ports) == ports
    assert again.block.shares() == {"blue": 0, "green": 40}
    eventually(lambda: again.block.checked("green"))
    assert ask(ports["frontend"]).release == "green"


def test_it_listens_on_loopback_alone(balancer: Balancer) -> None:
    ports = {f"{port:04X}" for port in balancer.ports.values()}
    listening = [
        line.split()[1] for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    ours = [address for address in listening if address.partition(":")[2] in ports]
    assert ours
    assert {address.partition(":")[0] for address in ours} == {"0100007F"}


def test_a_port_in_use_is_said_at_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Unreachable, match=r"the load balancer ended while it was starting: .*cannot bind"):
            Balancer(tmp_path, port=taken.getsockname()[1]).start()


def test_a_folder_that_is_no_name_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="keep the stage elsewhere"):
        Balancer(tmp_path / ("x" * 100)).start()


def test_a_release_that_starts_in_its_slot_is_checked_by_its_health_path(balancer: Balancer, tmp_path: Path) -> None:
    balancer.reload(health="/error")
    with release("blue", balancer.slots["blue"], tmp_path / "blue"):
        eventually(lambda: balancer.block.servers()["blue"].check == "L7STS")
        balancer.reload(health="/health")
        eventually(lambda: balancer.block.checked("blue"))
