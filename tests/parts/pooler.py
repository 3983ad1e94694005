"""A relay that hands backends out as a connection pooler does, and the server behind it."""

import socket
import struct
import threading
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.postgres.tools import server_tools


@pytest.fixture
def socket_database(tmp_path: Path) -> Generator[Address]:
    cluster = Cluster.create(tmp_path / "c", server_tools(17), scratch=True)
    cluster.start()
    with cluster.address().connect() as connection:
        connection.execute("create role pooled login")
    yield cluster.address()
    cluster.stop()


class Pooler:
    """Four backends for all clients: by the transaction, as port 6543 does, or for as long as a client stays."""

    def __init__(self, address: Address, *, by_transaction: bool) -> None:
        self.address, self.by_transaction = address, by_transaction
        self.free = [self._backend() for _ in range(4)]
        self.backends = list(self.free)
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def way_in(self) -> Address:
        return Address("127.0.0.1", self.listener.getsockname()[1], "pooled", "", self.address.database, "disable")

    def close(self) -> None:
        for each in (self.listener, *self.backends):
            each.close()

    def _backend(self) -> socket.socket:
        backend = socket.socket(socket.AF_UNIX)
        backend.connect(f"{self.address.host}/.s.PGSQL.{self.address.port}")
        words = f"user\0pooled\0database\0{self.address.database}\0client_encoding\0utf8\0\0".encode()
        backend.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
        _until_ready(backend, b"")
        return backend

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.recv(9999)
        client.sendall(_message(b"R", struct.pack("!i", 0)) + _parameters())
        client.sendall(_message(b"K", struct.pack("!ii", 4_000_000, 7)) + _message(b"Z", b"I"))
        held: socket.socket | None = None
        with closing(client):
            while (asked := client.recv(9999)) and asked[:1] != b"X":
                held = held or self.free.pop()
                held.sendall(asked)
                answer = _until_ready(held, b"")
                client.sendall(answer)
                if answer[-1:] == b"I" and self.by_transaction:
                    self.free.append(held)
                    held = None


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _parameters() -> bytes:
    known = {"server_version": "17.0", "client_encoding": "UTF8", "standard_conforming_strings": "on"}
    return b"".join(_message(b"S", f"{key}\0{value}\0".encode()) for key, value in known.items())


def _until_ready(backend: socket.socket, answer: bytes) -> bytes:
    while answer[-6:-1] != b"Z\0\0\0\x05":
        more = backend.recv(9999)
        assert more
        answer += more
    return answer
