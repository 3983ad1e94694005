"""GitHub's REST API, as far as a deploy speaks to it, on a port of this machine: pages, rights, limits, its 404s.

A repository with commits, tags, checks and releases; whose token may do what; and how it answers when it is asked too
often or is broken. Its answers have the fields and headers of https://docs.github.com/rest, version 2022-11-28.
"""

import json
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

REPOSITORY = "curator/service"
TOKEN = "github-canary-token-4711"
ALL_RIGHTS = frozenset({"metadata", "checks", "statuses", "contents"})
MOST_A_PAGE, MOST_OF_A_BODY = 100, 125_000
FORBIDDEN = "Resource not accessible by personal access token"
Answer = tuple[int, Any, Mapping[str, str]]


def run(name: str, conclusion: str | None = "success", status: str = "completed") -> dict[str, Any]:
    """A check run as GitHub tells it; without a conclusion it goes on."""
    return {
        "id": 1,
        "name": name,
        "status": status if conclusion else "in_progress",
        "conclusion": conclusion,
        "html_url": f"https://github.invalid/{REPOSITORY}/runs/{name}",
    }


def status(context: str, state: str = "success") -> dict[str, Any]:
    """One status of a commit, as another system set it."""
    return {"id": 2, "context": context, "state": state, "target_url": f"https://ci.invalid/{context}"}


@dataclass
class FakeGitHub:
    """The repository as it stands; `asked` is what was wanted of it, in order."""

    private: bool = True
    rights: frozenset[str] = ALL_RIGHTS
    commits: set[str] = field(default_factory=set[str])
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    statuses: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    releases: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    expires: str = ""
    instead: list[Answer] = field(default_factory=list[Answer])  # given first, whatever is asked
    first_somebody_else: bool = False  # another controller makes each release a moment earlier
    breaks_off: bool = False  # what is asked is done, and the answer is lost
    asked: list[str] = field(default_factory=list[str])
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, target: str, token: str, body: Mapping[str, Any]) -> Answer:
        """What GitHub says, and what it does."""
        where = urlsplit(target)
        self.asked.append(f"{method} {where.path}")
        if self.instead:
            return self.instead.pop(0)
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials", "status": "401"}, {}
        there, _, path = where.path.removeprefix("/repos/").partition(f"{REPOSITORY}")[0:3]
        if there or not where.path.startswith(f"/repos/{REPOSITORY}") or "metadata" not in self.rights:
            return _absent()
        wanted = {name: values[-1] for name, values in parse_qs(where.query).items()}
        return self._of_repository(method, unquote(path), wanted, body)

    def _of_repository(self, method: str, path: str, wanted: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        if not path:
            return self._repository()
        if found := re.fullmatch(r"/commits/(refs/tags/)?([^/]+)(?:/(check-runs|status))?", path):
            return self._commit(bool(found[1]), found[2], found[3] or "", wanted)
        if "contents" not in self.rights and not (method == "GET" and not self.private):
            return (403, {"message": FORBIDDEN, "status": "403"}, {"X-Accepted-GitHub-Permissions": "contents=write"})
        if method == "POST" and path == "/releases":
            return self._make(body)
        if found := re.fullmatch(r"/releases/tags/([^/]+)", path):
            return (200, self.releases[found[1]], {}) if found[1] in self.releases else _absent()
        return _absent()

    def _repository(self) -> Answer:
        told = {
            "full_name": REPOSITORY,
            "private": self.private,
            "default_branch": "main",
            "permissions": {"admin": False, "push": "contents" in self.rights, "pull": True},
        }
        return 200, told, {"github-authentication-token-expiration": self.expires} if self.expires else {}

    def _commit(self, is_tag: bool, ref: str, which: str, wanted: Mapping[str, str]) -> Answer:
        commit = self.tags.get(ref) if is_tag else ref if ref in {*self.commits, "main"} else None
        if commit is None:
            return 422, {"message": f"No commit found for SHA: {ref}", "status": "422"}, {}
        if not which:
            return 200, {"sha": commit, "commit": {"message": "feat: something"}}, {}
        if {"check-runs": "checks", "status": "statuses"}[which] not in self.rights:
            return 403, {"message": FORBIDDEN, "status": "403"}, {}
        if which == "check-runs":
            return self._page(f"/commits/{ref}/check-runs", "check_runs", self.runs.get(commit, []), wanted, {})
        state = {"sha": commit, "state": "pending"}
        return self._page(f"/commits/{ref}/status", "statuses", self.statuses.get(commit, []), wanted, state)

    def _page(
        self, path: str, key: str, found: Sequence[Mapping[str, Any]], wanted: Mapping[str, str], more: dict[str, Any]
    ) -> Answer:
        size, number = min(int(wanted.get("per_page", 30)), MOST_A_PAGE), int(wanted.get("page", 1))
        there = found[(number - 1) * size : number * size]
        url = f"{self.url}/repos/{REPOSITORY}{path}?per_page={size}&page="
        last = max(1, -(-len(found) // size))
        links = f'<{url}{number + 1}>; rel="next", <{url}{last}>; rel="last"' if number < last else ""
        return 200, {**more, "total_count": len(found), key: there}, {"Link": links} if links else {}

    def _make(self, body: Mapping[str, Any]) -> Answer:
        tag, commit = str(body["tag_name"]), str(body["target_commitish"])
        if self.first_somebody_else:
            self._publish(tag, commit, body)
        if tag in self.releases:
            return _invalid("already_exists", "tag_name")
        if tag not in self.tags and commit not in self.commits:
            return _invalid("invalid", "target_commitish")
        if len(str(body["body"])) > MOST_OF_A_BODY:
            return _invalid("custom", "body")
        self._publish(tag, commit, body)
        return 201, self.releases[tag], {}

    def _publish(self, tag: str, commit: str, body: Mapping[str, Any]) -> None:
        """GitHub makes the tag where there is none, and leaves one that is there where it is."""
        self.tags.setdefault(tag, commit)
        self.releases[tag] = {**body, "html_url": f"https://github.invalid/{REPOSITORY}/releases/tag/{tag}"}


def _absent() -> Answer:
    return 404, {"message": "Not Found", "status": "404"}, {}


def _invalid(code: str, named: str) -> Answer:
    errors = [{"resource": "Release", "code": code, "field": named}]
    return 422, {"message": "Validation Failed", "errors": errors, "status": "422"}, {}


@pytest.fixture
def github() -> Generator[FakeGitHub]:
    there = FakeGitHub()

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the standard library's name

        def _answer(self, body: Mapping[str, Any]) -> None:
            code, said, headers = there.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
            text = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            if there.breaks_off and self.command == "POST":
                self.close_connection = True
                return
            self.send_response(code)
            for name, value in {"Content-Type": "application/json; charset=utf-8", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    there.port = server.server_address[1]
    Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield there
    server.shutdown()
    server.server_close()
