"""Real traffic: a tiny release that answers HTTP, and clients who keep asking and remember what they were told."""

import http.client
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployments.local.balancer import Balancer
from tests.parts.processes import eventually

# It says which release it is; `?s=` makes it slow; POST is written down when it is executed; SIGTERM lets it finish.
APP = """
import json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = urlsplit(self.path)
        time.sleep(float(parse_qs(asked.query).get("s", ["0"])[0]))
        status = 500 if asked.path == "/error" or asked.path == "/health" and Path("sick").exists() else 200
        told = {"release": os.environ.get("RELEASE"), "names": sorted(os.environ), "folder": os.getcwd()}
        self.reply(status, json.dumps(told).encode())

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        with open(os.environ["EXECUTED"], "a") as file:
            file.write("x\\n")
        self.do_GET()

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *what):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 256

    def handle_error(self, request, client_address):
        pass

server = Server(("127.0.0.1", int(sys.argv[1])), Answer)
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving", os.environ.get("RELEASE"), flush=True)
server.serve_forever(poll_interval=0.02)
server.server_close()
print("finished", flush=True)
"""
DEBIAN = [found for found in (shutil.which("haproxy", path="/usr/sbin:" + os.environ.get("PATH", "")),) if found]


@pytest.fixture(params=["", *DEBIAN], ids=["wheel", *("debian" for _ in DEBIAN)])
def balancer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """A running one, with nothing behind it; of each HAProxy that is here."""
    balancer = Balancer(tmp_path_factory.mktemp("lb"), binary=request.param).start()
    yield balancer
    balancer.stop()


@contextmanager
def release(name: str, port: int, folder: Path) -> Generator["subprocess.Popen[bytes]"]:
    """A release that answers with its name until the block ends."""
    folder.mkdir(exist_ok=True)
    environ = {"RELEASE": name, "EXECUTED": str(folder / "executed")}
    process = subprocess.Popen([sys.executable, "-c", APP, str(port)], env=environ, cwd=folder)
    try:
        eventually(lambda: answers(port))
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def slots(balancer: Balancer, tmp_path: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Blue and green, answering and checked by the balancer."""
    with (
        release("blue", balancer.slots["blue"], tmp_path / "blue") as blue,
        release("green", balancer.slots["green"], tmp_path / "green") as green,
    ):
        eventually(lambda: all(map(balancer.block.checked, ("blue", "green"))))
        yield {"blue": blue, "green": green}


@dataclass(frozen=True)
class Answer:
    """What a client was told, or 0 when it was told nothing."""

    status: int
    body: bytes
    began: float
    seconds: float

    @property
    def release(self) -> str:
        return self.body.decode().partition('"release": "')[2].partition('"')[0]


@dataclass
class Crowd:
    """Clients who ask one after the other until `over`; each connection is asked once, or kept."""

    port: int
    path: str = "/"
    method: str = "GET"
    answers: list[Answer] = field(default_factory=list[Answer])
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def asking(self, clients: int) -> Generator["Crowd"]:
        threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def reach(self, count: int) -> None:
        """Until so many more answers came."""
        wanted = len(self.answers) + count
        eventually(lambda: len(self.answers) >= wanted, 60)

    def once(self, clients: int) -> "Crowd":
        """Each asks one time; returns when all were answered."""
        self.over.set()
        with self.asking(clients):
            pass
        return self

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    def of(self, name: str, *, since: float = 0) -> int:
        return sum(answer.release == name and answer.began >= since for answer in self.answers)

    def _ask(self) -> None:
        while True:
            self.answers.append(ask(self.port, self.path, self.method))
            if self.over.is_set():
                return


def ask(port: int, path: str = "/", method: str = "GET", **more: Any) -> Answer:
    """One request on a connection of its own."""
    began = time.time()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=more.get("timeout", 30))
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        response = connection.getresponse()
        return Answer(response.status, response.read(), began, time.time() - began)
    except (OSError, http.client.HTTPException):
        return Answer(0, b"", began, time.time() - began)
    finally:
        connection.close()


def answers(port: int) -> bool:
    return ask(port, "/health").status == 200
