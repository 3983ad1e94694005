"""The sample service: a small curator of short videos on Postgres, for the local stage.

    DATABASE_URL=... python -m deployments.local.service --port 8000

Its endpoints are those that the original design's health checks ask; it gives no shape for their answers, so the shapes
are ours. It fills an empty database first. It keeps nothing in memory: every request is a row in api_logs, and a
database that is away means 503 and another try with the next request.
"""

import argparse
import itertools
import json
import os
import queue
import random
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from blocks.errors import BlockError
from blocks.postgres.address import Address
from deployments.local.data import DEFAULT_MEGABYTES, fill, filled

BODY_LIMIT = 64 * 1024
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
TRENDING = """
select youtube_id, title, channel, view_count, published_at from public.videos
order by view_count desc, id limit 20
"""
LOG = """
insert into public.api_logs (method, path, status_code, response_ms, release, ip, correlation_id)
values (%s, %s, %s, %s, %s, %s, %s)
"""
ADD = """
insert into public.videos (youtube_id, title, channel, seconds, published_at)
values (%(youtube_id)s, %(title)s, %(channel)s, 30, now()) on conflict (youtube_id) do nothing returning id
"""
Answer = tuple[HTTPStatus, Mapping[str, object] | str]


class Pool:
    """Connections that are used again; one on which a statement failed is thrown away."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: queue.LifoQueue[psycopg.Connection] = queue.LifoQueue()

    @contextmanager
    def connection(self) -> Generator[psycopg.Connection]:
        """One for as long as the block lasts."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self.address.connect(application_name="sample-service", statement_timeout_s=5)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)

    def close(self) -> None:
        """Closes the idle ones."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


@dataclass(frozen=True)
class Traits:
    """What is wrong with a release of the sample service: nothing, as a rule."""

    errors: float = 0.0  # this share of the answers under /api/ is 500
    errors_after: int = 0  # but for the first so many: what checks before traffic cannot see
    slow: float = 0.0  # this share of them comes `slow_s` later
    slow_s: float = 0.0
    empty: bool = False  # the trending list has lost its videos: only a smoke test notices
    dies_after_s: float = 0.0  # 0: it lives
    dies_after: int = 0  # requests under /api/; 0: it lives

    @classmethod
    def of(cls, file: Path) -> "Traits":
        """As the release's traits.json says."""
        return cls(**json.loads(file.read_text()))


@dataclass(frozen=True)
class Service:
    """What the endpoints answer from."""

    pool: Pool
    release: str
    started: float
    traits: Traits = Traits()
    asked: "itertools.count[int]" = field(default_factory=itertools.count)  # requests under /api/

    def health(self, _body: bytes) -> Answer:
        """Whether it can serve: it can when its database answers."""
        with self.pool.connection() as connection:
            connection.execute("select 1")
        return HTTPStatus.OK, {
            "status": "healthy",
            "service": "shorts-curator",
            "version": self.release,
            "uptime_s": round(time.monotonic() - self.started, 1),
            "checks": {"database": "healthy"},
        }

    def auth_status(self, _body: bytes) -> Answer:
        """Nobody is ever logged in here."""
        return HTTPStatus.OK, {"authenticated": False, "user": None}

    def trending(self, _body: bytes) -> Answer:
        """The twenty most seen."""
        with self.pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            videos = cursor.execute(TRENDING).fetchall()
        return HTTPStatus.OK, {"videos": [] if self.traits.empty else videos}

    def add_video(self, body: bytes) -> Answer:
        """Takes {youtube_id, title, channel}; 400 when it is not that, 409 when it is known."""
        video = _video(body)
        if video is None:
            return HTTPStatus.BAD_REQUEST, {"error": "wanted youtube_id (11 characters), title and channel as JSON"}
        with self.pool.connection() as connection:
            row = connection.execute(ADD, video).fetchone()
        if row is None:
            return HTTPStatus.CONFLICT, {"error": "this video is known already"}
        return HTTPStatus.CREATED, {"id": row[0], **video}

    def metrics(self, _body: bytes) -> Answer:
        """Requests of the last five minutes, in Prometheus' text format."""
        question = """select path, status_code, count(*), sum(response_ms) / 1000 from public.api_logs
            where created_at > now() - interval '5 minutes' group by 1, 2 order by 1, 2"""
        with self.pool.connection() as connection:
            rows = connection.execute(question).fetchall()
        lines = ["# TYPE recent_requests gauge", "# TYPE recent_seconds gauge"]
        for path, status, count, seconds in rows:
            labels = f'{{path="{path}",status="{status}"}}'
            lines += [f"recent_requests{labels} {count}", f"recent_seconds{labels} {seconds:.3f}"]
        return HTTPStatus.OK, "\n".join([*lines, f'release_info{{version="{self.release}"}} 1', ""])

    def routes(self) -> dict[tuple[str, str], Callable[[bytes], Answer]]:
        """What is answered."""
        return {
            ("GET", "/health"): self.health,
            ("GET", "/api/health"): self.health,
            ("GET", "/api/videos/trending"): self.trending,
            ("GET", "/api/auth/status"): self.auth_status,
            ("GET", "/metrics"): self.metrics,
            ("POST", "/api/videos"): self.add_video,
        }

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """404 for what is not known, 503 when the database is away; the reason stays in the service's own output."""
        route = self.routes().get((method, path))
        if route is None:
            return HTTPStatus.NOT_FOUND, {"error": "there is no such endpoint"}
        if path.startswith("/api/") and self._is_faulty():
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "this release has a fault"}
        if path.startswith("/api/") and random.random() < self.traits.slow:  # noqa: S311 - no secret
            time.sleep(self.traits.slow_s)  # a slow release is what is asked for
        try:
            return route(body)
        except (psycopg.Error, BlockError) as error:
            print(f"{method} {path}: {type(error).__name__}", file=sys.stderr, flush=True)
            return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unhealthy", "error": "the database does not answer"}

    def _is_faulty(self) -> bool:
        asked = next(self.asked)
        if self.traits.dies_after and asked >= self.traits.dies_after:
            os._exit(1)
        return asked >= self.traits.errors_after and random.random() < self.traits.errors  # noqa: S311 - no secret

    def log(self, *row: object) -> None:
        """One request's row; lost when the database is away, as the request itself said 503 then."""
        with suppress(psycopg.Error, BlockError), self.pool.connection() as connection:
            connection.execute(LOG, row)


def _video(body: bytes) -> dict[str, str] | None:
    try:
        given: Any = json.loads(body)
    except ValueError:
        return None
    if not isinstance(given, dict):
        return None
    video = {key: str(given.get(key, "")).replace("\0", "") for key in ("youtube_id", "title", "channel")}  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return video if all(video.values()) and YOUTUBE_ID.fullmatch(video["youtube_id"]) else None


class Request(BaseHTTPRequestHandler):
    """HTTP around Service.answer."""

    service: ClassVar[Service]
    protocol_version = "HTTP/1.1"
    timeout = 30  # a client that falls silent

    def do_GET(self) -> None:
        """Any GET."""
        self._answer(b"")

    def do_POST(self) -> None:
        """Any POST; 413 beyond 64 KiB."""
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_LIMIT:
            self.close_connection = True
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "at most 64 KiB"}, "", 0)
            return
        self._answer(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' word
        """Requests are logged in api_logs."""

    def _answer(self, body: bytes) -> None:
        with self.server.answering():  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - ours is a Server
            self._answer_one(body)

    def _answer_one(self, body: bytes) -> None:
        began = time.monotonic()
        path = urlsplit(self.path).path
        named = self.headers.get("x-correlation-id", "")
        name = named if re.fullmatch(r"[\w.-]{1,64}", named, re.ASCII) else secrets.token_hex(8)
        status, content = self.service.answer(self.command, path, body)
        spent_ms = (time.monotonic() - began) * 1000
        self._send(status, content, name, spent_ms)
        logged = path.replace("\0", "")[:200]
        self.service.log(self.command, logged, status, spent_ms, self.service.release, self.client_address[0], name)

    def _send(self, status: HTTPStatus, content: Mapping[str, object] | str, name: str, spent_ms: float) -> None:
        plain = isinstance(content, str)
        text = content if plain else json.dumps(content, ensure_ascii=False, default=str)
        self.send_response(status)
        self.send_header("content-type", "text/plain; version=0.0.4" if plain else "application/json; charset=utf-8")
        self.send_header("content-length", str(len(text.encode())))
        self.send_header("x-response-time", f"{spent_ms:.1f}ms")
        self.send_header("x-correlation-id", name)
        self.send_header("x-release", self.service.release)
        self.end_headers()
        self.wfile.write(text.encode())


class Server(ThreadingHTTPServer):
    """A thread a client; a client that leaves early is no error; what is being answered at SIGTERM is answered."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._answering, self._quiet = 0, threading.Condition()

    @contextmanager
    def answering(self) -> Generator[None]:
        """While one request is answered."""
        with self._quiet:
            self._answering += 1
        try:
            yield
        finally:
            with self._quiet:
                self._answering -= 1
                self._quiet.notify_all()

    def finish(self, limit_s: float = 20) -> None:
        """Wait until nothing is being answered; connections that only stay open are not waited for."""
        with self._quiet:
            self._quiet.wait_for(lambda: self._answering == 0, limit_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent for broken connections alone."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def main() -> None:
    """Fills an empty database, serves until SIGTERM, ends with 0."""
    options = _options()
    url = os.environ.get("SERVICE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not url:
        sys.exit("the sample service wants its database as a URL in DATABASE_URL")
    pool = Pool(Address.of_url(url))
    fill_empty(pool.address, options.megabytes)
    traits = Traits.of(options.traits) if options.traits else Traits()
    release = os.environ.get("RELEASE") or os.environ.get("APP_VERSION", "v1")
    _serve(Service(pool, release, time.monotonic(), traits), options.port)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The local stage's sample service; DATABASE_URL says where its rows are."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--traits", type=Path, help="a JSON file that says what is wrong with this release")
    parser.add_argument(
        "--megabytes", type=float, default=DEFAULT_MEGABYTES, help="what an empty database is filled with"
    )
    return parser.parse_args()


def fill_empty(address: Address, megabytes: float = DEFAULT_MEGABYTES) -> None:
    """Fill a database that has no rows of the service yet."""
    with address.connect() as connection:
        full = filled(connection)
    if not full:
        fill(address, megabytes=megabytes)


def _serve(service: Service, port: int) -> None:
    Request.service = service
    with Server(("127.0.0.1", port), Request) as server:
        signal.signal(signal.SIGTERM, lambda _sign, _frame: threading.Thread(target=server.shutdown).start())
        print(f"serving on port {server.server_address[1]}", flush=True)
        if service.traits.dies_after_s:
            threading.Timer(service.traits.dies_after_s, os._exit, [1]).start()
        server.serve_forever(poll_interval=0.1)
        server.finish()
    service.pool.close()


if __name__ == "__main__":
    main()
