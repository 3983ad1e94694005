"""One HTTP question to a service of ours, what came of it: the eye of health checks and probes. It never retries."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

MOST_BYTES = 1 << 20
UNKNOWN = "unknown"
DENIED = 401  # an endpoint that wants a login is up


@dataclass(frozen=True)
class Answer:
    """What an address answered; `status` 0 means that nothing did, and `trouble` says why."""

    url: str
    status: int
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Any = None  # of a JSON answer
    trouble: str = ""

    @property
    def serves(self) -> bool:
        """Whether it is 2xx, or wants a login."""
        return 200 <= self.status < 300 or self.status == DENIED  # noqa: PLR2004 - HTTP's own numbers

    @property
    def healthy(self) -> bool:
        """Whether it is 2xx: a health path wants no login."""
        return self.serves and self.status != DENIED

    def __str__(self) -> str:
        """`GET http://... answered 503 after 0.02 s`."""
        said = f"answered {self.status}" if self.status else f"gave no answer ({self.trouble})"
        return f"GET {self.url} {said} after {self.seconds:.2f} s"

    def version(self, where: str) -> str:
        """The release that answered: read where the stage says, `header NAME` or `json a.b`; else "unknown"."""
        kind, _, name = where.partition(" ")
        found = self.headers.get(name.lower()) if kind == "header" else _inside(self.body, name)
        return str(found) if found else UNKNOWN


def ask(url: str, *, timeout_s: float = 5) -> Answer:
    """GET the address once, following nothing; whatever happens is in the answer."""
    began = time.monotonic()
    try:
        with httpx.stream("GET", url, timeout=timeout_s, verify=_trust()) as response:
            body = _read(response)
    except httpx.HTTPError as error:
        return Answer(url, 0, time.monotonic() - began, trouble=type(error).__name__)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(url, response.status_code, time.monotonic() - began, headers, body)


@cache
def _trust() -> ssl.SSLContext:
    """Who is believed over TLS; to read it anew for each question would take longer than most answers."""
    return httpx.create_ssl_context()


def _read(response: httpx.Response) -> Any:
    """The JSON of the first MiB, or None: whoever answers more is not asked for its version in JSON."""
    text = b""
    for piece in response.iter_bytes():
        text += piece
        if len(text) > MOST_BYTES:
            return None
    try:
        return httpx.Response(200, content=text).json()
    except ValueError:
        return None


def _inside(body: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        if not isinstance(body, dict):
            return None
        body = body.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return body if isinstance(body, str | int) else None  # pyright: ignore[reportUnknownVariableType]
