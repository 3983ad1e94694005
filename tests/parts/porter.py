"""A porter before an S3 server: he lets so many parts of uploads in, then he refuses, or says nothing any more."""

import http.client
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

DENIED = b"<Error><Code>AccessDenied</Code><Message>canary of a body</Message></Error>"
HOP = frozenset({"connection", "content-length", "expect", "transfer-encoding"})  # each server's own affair
Then = Literal["refuses parts", "refuses all", "is silent"]


@contextmanager
def porter(endpoint: str, parts: int, then: Then) -> Generator["Porter"]:
    """One before that server, while this lasts."""
    with Porter(endpoint, parts, then) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        try:
            yield made
        finally:
            made.gone_home.set()
            made.shutdown()


class Porter(ThreadingHTTPServer):
    """Passes requests on as they are: their signature covers the host that the client named, which is his."""

    daemon_threads = True

    def __init__(self, endpoint: str, parts: int, then: Then) -> None:
        super().__init__(("127.0.0.1", 0), Door)
        self.behind = endpoint.removeprefix("http://")
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.let_in = 0
        self.gone_home = threading.Event()
        self._parts, self._shut = parts, False
        self._then: Then = then
        self._one_at_a_time = threading.Lock()

    def verdict(self, part: bool) -> Then | None:
        """What becomes of a request; None: it is let in. The first part too many shuts the door."""
        with self._one_at_a_time:
            self._shut = self._shut or (part and self.let_in == self._parts)
            if not self._shut:
                self.let_in += part
                return None
            return self._then if part or self._then != "refuses parts" else None


class Door(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    server: Porter  # pyright: ignore[reportIncompatibleVariableOverride]

    def answer(self) -> None:
        """Let it in, or not."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        verdict = self.server.verdict(self.command == "PUT" and "partNumber=" in self.path)
        if verdict is None:
            self._pass_on(body)
        elif verdict == "is silent":
            self.close_connection = True
            self.server.gone_home.wait()
        else:
            self._say(403, [("Content-Type", "application/xml"), ("Content-Length", str(len(DENIED)))], DENIED)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 (the library looks for these names)

    def _pass_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.server.behind)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in [*_without_hops(self.headers.items()), ("Content-Length", str(len(body)))]:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        self._say(answer.status, [*_without_hops(answer.getheaders()), ("Content-Length", length or "0")], content)
        connection.close()

    def _say(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's name)
        """Nothing to the terminal."""


def _without_hops(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP]
