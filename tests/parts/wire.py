"""A wire to a server that can freeze, be cut, or be gone, as networks and servers do."""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace

from blocks.postgres.address import Address


class Wire:
    """Forwards to the address' server; `address` is where to enter. Freezing loses nothing, it only waits."""

    def __init__(self, to: Address) -> None:
        self._to = to
        self._flows = threading.Event()
        self._flows.set()
        self._gone = False
        self._ends: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = replace(to, host="127.0.0.1", port=int(self._door.getsockname()[1]))
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self, seconds: float) -> None:
        """Nothing passes for so long, and nobody is told."""
        self._flows.clear()
        self._after(seconds, self._flows.set)

    def cut(self) -> None:
        """All connections break."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def go_away(self, seconds: float) -> None:
        """As a server that restarts: connections break, new ones are closed at once."""
        self._gone = True
        self.cut()
        self._after(seconds, self._come_back)

    def close(self) -> None:
        self._flows.set()
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut()

    def _come_back(self) -> None:
        self._gone = False

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        timer.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                if self._gone:
                    near.close()
                    continue
                far = socket.create_connection((self._to.host, self._to.port))
                self._ends += [near, far]
                threading.Thread(target=self._serve, args=[near, far], daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            back = threading.Thread(target=self._carry, args=[far, near], daemon=True)
            back.start()
            self._carry(near, far)
            back.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
