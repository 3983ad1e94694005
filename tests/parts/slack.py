"""Slack's Web API and an incoming webhook, as far as a deploy speaks to them, on a port of this machine.

As the real one it answers 200 with `ok: false` when it refuses, and a webhook with one plain word.
"""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

TOKEN = "xoxb-canary-4711"
CHANNEL, CHANNEL_ID = "#deploys", "C024BE91L"
HOOK = "/services/T000/B000/webhook-canary-4711"
MOST_OF_A_TEXT = 40_000
Answer = tuple[int, str, Mapping[str, str]]


@dataclass
class FakeSlack:
    """A workspace with one channel: `messages` is what it shows, by their time; `hooked` what a webhook brought."""

    member: bool = True
    archived: bool = False
    scopes: frozenset[str] = frozenset({"chat:write"})
    editable: bool = True
    messages: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    hooked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    instead: list[Answer] = field(default_factory=list[Answer])  # given first, whatever is asked
    asked: list[str] = field(default_factory=list[str])
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    @property
    def hook(self) -> str:
        return f"http://127.0.0.1:{self.port}{HOOK}"

    def answer(self, path: str, token: str, body: Mapping[str, Any]) -> Answer:
        """What Slack says, and what it does."""
        self.asked.append(path)
        if self.instead:
            return self.instead.pop(0)
        if path.startswith("/services/"):
            return self._hook(path, body)
        said = self._method(path.removeprefix("/api/"), token, body)
        return 200, json.dumps(said), {"Content-Type": "application/json; charset=utf-8"}

    def _method(self, method: str, token: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if token != f"Bearer {TOKEN}":
            return {"ok": False, "error": "invalid_auth" if token else "not_authed"}
        if method == "auth.test":
            return {"ok": True, "user": "shipkeeper", "team": "Curator", "user_id": "U1", "team_id": "T1"}
        if "chat:write" not in self.scopes:
            return {"ok": False, "error": "missing_scope", "needed": "chat:write", "provided": ""}
        if wrong := self._wrong(method, body):
            return {"ok": False, "error": wrong}
        time = str(body["ts"]) if method == "chat.update" else f"1795608000.{len(self.asked):06}"
        self.messages[time] = {name: value for name, value in body.items() if name not in {"channel", "ts"}}
        return {"ok": True, "channel": CHANNEL_ID, "ts": time, "message": self.messages[time]}

    def _wrong(self, method: str, body: Mapping[str, Any]) -> str:
        """A name is for posting only: an edit wants the channel's id."""
        if body.get("channel") not in ({CHANNEL_ID} if method == "chat.update" else {CHANNEL, CHANNEL_ID}):
            return "channel_not_found"
        if not self.member or self.archived:
            return "is_archived" if self.archived else "not_in_channel"
        if not body.get("text") and not body.get("attachments"):
            return "no_text"
        if len(str(body.get("text", ""))) > MOST_OF_A_TEXT:
            return "msg_too_long"
        if method == "chat.update" and body.get("ts") not in self.messages:
            return "message_not_found"
        return "" if self.editable or method != "chat.update" else "edit_window_closed"

    def _hook(self, path: str, body: Mapping[str, Any]) -> Answer:
        if path != HOOK:
            return 404, "no_service", {}
        if self.archived:
            return 410, "channel_is_archived", {}
        if not body.get("text") and not body.get("attachments"):
            return 400, "no_text", {}
        self.hooked.append(dict(body))
        return 200, "ok", {}


@pytest.fixture
def slack() -> Generator[FakeSlack]:
    there = FakeSlack()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(length) or b"{}")
            code, said, headers = there.answer(self.path, self.headers.get("Authorization", ""), body)
            self.send_response(code)
            for name, value in {"Content-Type": "text/html", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the standard library's name

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    there.port = server.server_address[1]
    Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield there
    server.shutdown()
    server.server_close()
