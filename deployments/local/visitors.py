"""The local stage's visitors: people who come and go, steadily, through the load balancer, and leave rows behind.

    SERVICE_DATABASE_URL=... python -m deployments.local.visitors --url http://127.0.0.1:8000 --a-second 5

Every request that was not answered, or answered with a 5xx, is a line of the output: `failed at TIME: ...`.
"""

import argparse
import http.client
import json
import os
import queue
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg

from blocks.errors import BlockError
from blocks.postgres.address import Address
from deployments.local.data import LETTERS, Draw
from deployments.local.service import Pool

SEARCHED = """
insert into public.search_logs (user_id, query, results, response_ms)
select id, %s, %s, %s from public.users where id = %s
"""
CAME = """
insert into public.sessions (user_id, expires_at) select id, now() + interval '1 day' from public.users where id = %s
"""
PATHS = ("/api/videos/trending", "/api/videos/trending", "/api/auth/status")
TRACES_A_SECOND = 5.0  # rows by hand of what the service itself does not write
WORKERS = 16
PATIENCE_S = 15
FAILED = 500


@dataclass(frozen=True)
class Crowd:
    """People who ask at `a_second`, on time whatever the answers take: a slow release is not asked less."""

    host: str
    a_second: float
    over: threading.Event

    def come(self) -> None:
        """Until it is over."""
        waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        people = [threading.Thread(target=self._ask_all, args=(waiting,), daemon=True) for _ in range(WORKERS)]
        for one in people:
            one.start()
        due = time.monotonic()
        while not self.over.wait(max(due - time.monotonic(), 0)):
            waiting.put(random.choice(PATHS))  # noqa: S311 - no secret
            due = max(due, time.monotonic() - 1) + 1 / self.a_second
        for _ in people:
            waiting.put(None)
        for one in people:
            one.join()

    def _ask_all(self, waiting: "queue.SimpleQueue[str | None]") -> None:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_S)
        while path := waiting.get():
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                if answer.status >= FAILED:
                    _tell(f"{path} answered {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                _tell(f"{path}: {type(error).__name__}")
        connection.close()


def _tell(what: str) -> None:
    print(f"failed at {datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}: {what}", flush=True)


class Traces(threading.Thread):
    """Rows of searches, views, sessions and log lines, steadily; now and then a new video."""

    def __init__(self, pool: Pool, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.pool, self.over = pool, over
        self.draw = Draw(str(random.SystemRandom().random()))

    def run(self) -> None:
        """Until it is over; a database that is away is tried again with the next visitor."""
        while not self.over.wait(1 / TRACES_A_SECOND):
            with suppress(psycopg.Error, BlockError), self.pool.connection() as connection, connection.transaction():
                for statement, values in self._traces():
                    connection.execute(statement, values)

    def _traces(self) -> list[tuple[LiteralString, tuple[object, ...]]]:
        draw, user = self.draw, 1 + self.draw.below(10)
        traces: list[tuple[LiteralString, tuple[object, ...]]] = [
            (SEARCHED, (draw.phrase(2), draw.below(200), draw.below(900) / 8, user)),
            (CAME, (user,)),
            ("insert into public.logs (level, message) values ('info', %s)", (f"검색: {draw.phrase(1)}",)),
            ("update public.videos set view_count = view_count + 1 where id = %s", (1 + draw.below(10),)),
        ]
        return traces + ([self._new_video()] if draw.below(20) == 0 else [])

    def _new_video(self) -> tuple[LiteralString, tuple[object, ...]]:
        name = "".join(self.draw.one(LETTERS) for _ in range(11))
        statement: LiteralString = """insert into public.videos (youtube_id, title, channel, seconds, published_at)
            values (%s, %s, '새 채널', 30, now()) on conflict (youtube_id) do nothing"""
        return statement, (name, self.draw.phrase(4))


def main() -> None:
    """Visit until SIGTERM; the last line says how it was meant."""
    parser = argparse.ArgumentParser(description="Visitors of the sample service.")
    parser.add_argument("--url", required=True, help="where the service is reached")
    parser.add_argument("--a-second", type=float, default=5)
    options = parser.parse_args()
    url = os.environ.get("SERVICE_DATABASE_URL")
    if not url:
        sys.exit("the visitors want the service's database as a URL in SERVICE_DATABASE_URL")
    over, pool = threading.Event(), Pool(Address.of_url(url))
    signal.signal(signal.SIGTERM, lambda _sign, _frame: over.set())
    traces = Traces(pool, over)
    traces.start()
    print(json.dumps({"visiting": options.url, "a_second": options.a_second}), flush=True)
    Crowd(urlsplit(str(options.url)).netloc, options.a_second, over).come()
    traces.join()
    pool.close()


if __name__ == "__main__":
    main()
