"""A Postgres of our own on this machine: the local stage's servers, the ledger's, and the scratch that proves a backup.

initdb runs once a version into a cached template; a cluster is a copy of it (about 0.3 s with its start). It listens on
a socket in a folder that only its owner enters, and, where a port is asked for, on loopback with a password. Root's
clusters run in a user namespace, or else as nobody. A cluster's folder holds all of it but the template:

    cluster.json   what it is (0600: the password is in it); written last, so a folder without it is half made
    data/ log      Postgres' own
    run/           the socket (in /tmp when this path would be too long for one), the CA, the standby's passfile

This file never touches a server that it did not create.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from blocks.errors import Missing, Refused, Unreachable
from blocks.postgres import machine
from blocks.postgres.address import Address
from blocks.postgres.certificates import certify
from blocks.postgres.machine import call, own, private, quote, started, write
from blocks.postgres.template import SUPERUSER, lay_out
from blocks.postgres.tools import Tools, server_tools

SOCKET_PORT = 5432  # the socket's name when there is no port; each cluster has a folder of its own for it
EVERYONE = {
    "fsync": "on",
    "shared_buffers": "'32MB'",
    "max_connections": "100",
    "log_min_messages": "warning",
    "log_timezone": "'UTC'",
    "timezone": "'UTC'",
    "lc_messages": "'C'",
}
DURABLE = {"wal_level": "replica", "max_wal_senders": "8", "max_replication_slots": "8", "hot_standby": "on"}
THROWN_AWAY = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "shared_buffers": "'128MB'",
    "max_wal_size": "'4GB'",
}


@dataclass(frozen=True)
class Cluster:
    """A Postgres server in a folder; make it with `create`, find it again with `of`."""

    folder: Path
    tools: Tools
    port: int | None = None
    password: str = field(default="", repr=False)
    tls: bool = False
    scratch: bool = False

    @classmethod
    def create(  # noqa: PLR0913 - the seven facts of a cluster, each named by its caller
        cls,
        folder: Path,
        tools: Tools,
        *,
        port: int | None = None,
        password: str | None = None,
        tls: bool = False,
        scratch: bool = False,
    ) -> "Cluster":
        """A new, stopped cluster. With a port it listens on 127.0.0.1 too, and gets a password when none is given.

        Refused where the folder holds one already; what a killed `create` left there is removed.
        """
        if re.search(r"[\0\r\n]", password or ""):
            raise Refused("a password of one line is wanted: neither a passfile nor the environment carries another")
        if port and password is None:
            password = secrets.token_urlsafe(24)
        self = cls(folder.absolute(), tools, port, password or "", tls, scratch)
        self._begin()
        lay_out(tools, self.data)
        if tls:
            certify(self.run)
        self._write_settings(THROWN_AWAY if scratch else DURABLE)
        if self.password:
            self._set_password()
        self._finish()
        return self

    @classmethod
    def of(cls, folder: Path) -> "Cluster":
        """The cluster that `create` or `standby` made in this folder; Missing when there is none or half of one."""
        card = folder.absolute() / "cluster.json"
        if not card.exists():
            raise Missing(f"there is no cluster in {folder}: create it first")
        known = json.loads(card.read_text())
        tools = Tools(known["major"], Path(known["bin"]))
        if not (tools.bin / "postgres").exists():
            tools = server_tools(tools.major)  # the environment moved; the major must stay
        return cls(card.parent, tools, known["port"], known["password"], known["tls"], known["scratch"])

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.folder / "data"

    @property
    def run(self) -> Path:
        """The folder of the CA and of the standby's passfile; the socket's too, unless its path is too long."""
        return self.folder / "run"

    @property
    def ca(self) -> Path:
        """The certificate that `sslmode=verify-full` is to trust, when the cluster speaks TLS."""
        return self.run / "ca.pem"

    @property
    def socket_folder(self) -> Path:
        """Where the socket lies: found from the folder's path alone, so that a sweep finds it too."""
        return machine.socket_folder(self.folder)

    def address(self, database: str = "postgres") -> Address:
        """The superuser's way in: through loopback (and TLS) when there is a port, else through the socket."""
        mode = "verify-full" if self.tls else "disable"
        return Address(
            host="127.0.0.1" if self.port else str(self.socket_folder),
            port=self.port or SOCKET_PORT,
            user=SUPERUSER,
            password=self.password,
            database=database,
            sslmode=mode if self.port else "disable",
            sslrootcert=str(self.ca) if self.port and self.tls else "",
        )

    def start(self) -> None:
        """Starts it, unless it runs, and returns when it lets connections in."""
        if self.running():
            return
        machine.clear_dead(self.data)
        private(self.socket_folder)
        own(self.socket_folder)
        try:
            self._pg_ctl("start", "-l", "log", wanted=f"to start Postgres in {self.folder}")
        finally:
            if not self.running():
                machine.leave_no_socket(self.folder)

    def stop(self) -> None:
        """Stops it, clients or not, and returns when it is gone; a scratch is cut off without a checkpoint."""
        if not self.running():
            return
        modes = ("immediate",) if self.scratch else ("fast", "immediate")
        for mode in modes:
            with suppress(Refused):
                self._pg_ctl("stop", "-m", mode, "-t", "20", wanted="to stop")
            if not self.running():
                machine.leave_no_socket(self.folder)
                return
        raise Unreachable(f"Postgres in {self.folder} did not stop: see {self.folder / 'log'}")

    def running(self) -> bool:
        """Whether its postmaster lives."""
        return machine.postmaster(self.data) is not None

    def standby(self, folder: Path, port: int | None = None) -> "Cluster":
        """A stopped standby of this running cluster, fed through a replication slot of its own."""
        other = Cluster(folder.absolute(), self.tools, port, self.password, self.tls)
        other._begin()
        slot = "standby_" + hashlib.sha256(str(other.folder).encode()).hexdigest()[:12]
        self._drop_slot(slot)
        self._base_backup(other.data, slot)
        if self.tls:
            shutil.copytree(self.run, other.run, dirs_exist_ok=True, ignore=_only_pem)
        other._follow(self.address(), slot)
        other._write_settings(DURABLE)
        other._finish()
        return other

    # ---- making one

    def _begin(self) -> None:
        """Clears what a killed create left, and makes the folder anew."""
        if (self.folder / "cluster.json").exists():
            raise Refused(f"{self.folder} holds a cluster already: take another folder, or Cluster.of it")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in (self.data, self.run):
            shutil.rmtree(half, ignore_errors=True)
        self.run.mkdir(mode=0o700)

    def _finish(self) -> None:
        own(self.folder)
        card = {
            "major": self.tools.major,
            "bin": str(self.tools.bin),
            "port": self.port,
            "password": self.password,
            "tls": self.tls,
            "scratch": self.scratch,
        }
        write(self.folder / "cluster.json.new", json.dumps(card))
        (self.folder / "cluster.json.new").rename(self.folder / "cluster.json")

    def _write_settings(self, kind: dict[str, str]) -> None:
        settings = EVERYONE | kind | {
            "listen_addresses": "'127.0.0.1'" if self.port else "''",
            "port": str(self.port or SOCKET_PORT),
            "unix_socket_directories": quote('"' + str(self.socket_folder).replace('"', '""') + '"'),
            "unix_socket_permissions": "0700",
        }  # fmt: skip
        if self.tls:
            settings |= {"ssl": "on", "ssl_cert_file": quote(f"{self.run}/server.pem")}
            settings |= {"ssl_key_file": quote(f"{self.run}/server-key.pem")}
        write(self.data / "shipkeeper.conf", "".join(f"{key} = {value}\n" for key, value in settings.items()))
        local, host = ("scram-sha-256" if self.password else "trust"), ("hostssl" if self.tls else "host")
        lines = [f"local {what} all {local}" for what in ("all", "replication")]
        lines += [f"{host} {what} all 127.0.0.1/32 scram-sha-256" for what in ("all", "replication")]
        write(self.data / "pg_hba.conf", "\n".join(lines) + "\n")

    def _set_password(self) -> None:
        """Through a single-user server's stdin, before it ever listens; escaped whole, so that no character matters."""
        escaped = "".join(f"\\+{ord(character):06x}" for character in self.password)
        statement = f"alter role {SUPERUSER} password U&'{escaped}';\n"
        own(self.folder)
        command = [self.tools.path("postgres"), "--single", "-D", str(self.data), "postgres"]
        call(command, f"to set a password in {self.folder}", feed=statement)

    def _base_backup(self, data: Path, slot: str) -> None:
        command = [self.tools.path("pg_basebackup"), "-D", str(data), "-X", "stream", "-c", "fast", "-C", "-S", slot]
        own(data.parent)
        call(command, f"a base backup of {self.folder}", environment=self.address().environ(), limit_s=3600)

    def _drop_slot(self, slot: str) -> None:
        gone = (
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
        )
        with self.address().connect() as connection:
            connection.execute(gone, [slot])

    def _follow(self, primary: Address, slot: str) -> None:
        passfile = self.run / "passfile"
        write(passfile, "*:*:*:*:" + primary.password.replace("\\", r"\\").replace(":", r"\:") + "\n")
        source = {
            "host": primary.host,
            "port": str(primary.port),
            "user": primary.user,
            "passfile": str(passfile),
            "sslmode": primary.sslmode,
            "sslrootcert": str(self.ca) if primary.sslrootcert else "",
            "application_name": slot,
        }
        text = " ".join(f"{key}={quote(value)}" for key, value in source.items() if value)
        with (self.data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = {quote(text)}\nprimary_slot_name = {quote(slot)}\n")
        (self.data / "standby.signal").touch()

    def _pg_ctl(self, verb: str, *more: str, wanted: str) -> None:
        """With short names, in the folder: pg_ctl hands paths to a shell, and quotes them badly."""
        call([self.tools.path("pg_ctl"), verb, "-s", "-w", "-t", "60", "-D", "data", *more], wanted, self.folder)


# ---- scratches: gone afterwards, also when their owner was killed


@contextmanager
def scratch(major: int, folder: Path | None = None) -> Generator[Cluster]:
    """A running scratch server of this major, in a new folder below `folder`; gone afterwards, also its folder.

    Missing when this machine has no server of that major. What killed owners left below `folder` is swept first.
    """
    tools = server_tools(major)
    with owned(folder) as place:
        cluster = Cluster.create(place, tools, scratch=True)
        cluster.start()
        yield cluster


@contextmanager
def owned(folder: Path | None = None) -> Generator[Path]:
    """The path of a cluster to be made below `folder` that goes with this process: at the end, or by the next sweep."""
    home = folder or scratches()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep_scratches(home)
    place = home / f"scratch-{os.getpid()}-{started(os.getpid())}-{secrets.token_hex(3)}"
    try:
        yield place
    finally:
        _remove(place)


def sweep_scratches(folder: Path | None = None) -> list[Path]:
    """Ends and removes the scratches whose owner is gone: a scratch's name holds its owner's pid and start."""
    owner = re.compile(r"scratch-(\d+)-(\d+)-[0-9a-f]+")
    orphans: list[Path] = []
    for place in sorted((folder or scratches()).glob("scratch-*")):
        named = owner.fullmatch(place.name)
        if named and started(int(named[1])) != int(named[2]):
            _remove(place)
            orphans.append(place)
    return orphans


def scratches() -> Path:
    """Where scratches lie when no folder is given: a folder for each user, entered by nobody else."""
    return private(Path(tempfile.gettempdir()) / f"shipkeeper-{os.geteuid()}")


def _remove(place: Path) -> None:
    """Two may sweep at once: who renames it removes it; under its new name it is still an orphan to the next sweep."""
    machine.kill_all(place.absolute() / "data")
    shutil.rmtree(machine.socket_folder(place.absolute()), ignore_errors=True)
    gone = place.with_name(f"scratch-0-1-{secrets.token_hex(6)}")
    try:
        place.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)
    if gone.exists():
        raise Refused(f"the scratch in {gone} cannot be removed: remove it by hand")


def _only_pem(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".pem")]


def free_port() -> int:
    """A loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
