"""Slack, as a deploy tells people of itself: one message that is edited as it goes, or two where nothing can be edited.

It sends what it is given and says nothing of its own. prefect-slack's blocks hold who we are; its tasks swallow what
Slack refuses, so each answer's `ok` is read here. Sending twice shows twice: Slack has no key that would prevent it.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, ClassVar, TypedDict

import aiohttp
from prefect.blocks.core import Block
from prefect_slack import SlackCredentials, SlackWebhook
from pydantic import BaseModel, Field, HttpUrl, JsonValue, ValidationError
from slack_sdk.errors import SlackApiError
from slack_sdk.webhook import WebhookClient

from blocks.errors import BlockError, Refused, Unreachable

Message = Mapping[str, JsonValue]  # text, attachments, blocks: what chat.postMessage and a webhook take
TIMEOUT_S = 10  # of a webhook's answer
_PASSES = frozenset({
    "accesslimited", "fatal_error", "internal_error", "rate_limited", "ratelimited", "request_timeout", "rollup_error",
    "service_unavailable", "team_added_to_org",
})  # fmt: skip
_NOT_EDITABLE = frozenset({"cant_update_message", "edit_window_closed", "message_not_found"})
_TOKEN, _WEBHOOK, _ARCHIVED = "save a new bot token", "make a new webhook and save it", "name a channel that is in use"
_ADVICE = {
    "account_inactive": _TOKEN, "invalid_auth": _TOKEN, "not_authed": _TOKEN, "token_expired": _TOKEN,
    "token_revoked": _TOKEN, "missing_scope": "give the app the scope chat:write, and install it again",
    "channel_is_archived": _ARCHIVED, "is_archived": _ARCHIVED, "not_in_channel": "invite the bot to the channel",
    "channel_not_found": "name a channel that is there; of a private one the bot must be a member",
    "invalid_token": _WEBHOOK, "no_active_hooks": _WEBHOOK, "no_service": _WEBHOOK, "no_team": _WEBHOOK,
    "action_prohibited": "ask an administrator of the workspace",
}  # fmt: skip
_WORD = re.compile(r"[a-z_]{1,60}")
_OK, _TOO_MANY, _BROKEN = 200, 429, 500
_SILENT = logging.Logger(  # noqa: LOG001 - outside the tree: the library logs a webhook's address, which is the secret
    "blocks.slack", logging.CRITICAL + 1
)


class Notice(TypedDict):
    """A message that was sent, as JSON: whoever goes on with the deploy edits the same one. Empty: a webhook's."""

    channel: str
    ts: str


class _Answer(BaseModel):
    error: str = ""
    channel: str = ""
    ts: str = ""
    user: str = ""
    team: str = ""


class SlackChannel(Block):
    """
    A channel of Slack and the bot that posts to it and edits what it posted.

    Example:
        ```python
        from blocks.slack import SlackChannel

        channel = SlackChannel.load("BLOCK_NAME")
        print(channel.check())
        ```
    """  # noqa: D212 - Prefect reads the example from here

    _block_type_name: ClassVar[str | None] = "Slack Channel"
    _block_type_slug: ClassVar[str | None] = "slack-channel"
    _description: ClassVar[str | None] = "A channel to which shipkeeper's bot posts, and edits what it posted."
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://a.slack-edge.com/80588/marketing/img/meta/slack_hash_256.png"
    )
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://docs.slack.dev/reference/methods/chat.postMessage")

    credentials: SlackCredentials = Field(description="The bot's token; its app has the scope chat:write.")
    channel: str = Field(min_length=1, description="The channel as #name or as its id; the bot is a member of it.")
    api_url: str = Field(
        default="https://slack.com/api/",
        pattern=r"^(https://\S+|http://(127\.0\.0\.1|localhost)(:\d+)?(/\S*)?)$",
        description="Where Slack's API is.",
    )
    timeout_s: int = Field(default=10, ge=1, le=120, description="How long one answer may take, in seconds.")

    def post(self, message: Message) -> Notice:
        """Post it; the handle by which it is edited. Raises Unreachable, Refused."""
        said = self._call("chat.postMessage", {"channel": self.channel, **message})
        return Notice(channel=said.channel, ts=said.ts)

    def edit(self, notice: Notice, message: Message) -> Notice:
        """Put the message in the place of that one; posted anew where that one can't be edited any more."""
        try:
            self._call("chat.update", {**notice, **message})
        except _Uneditable:
            return self.post(message)
        return notice

    def check(self) -> str:
        """One sentence: as whom Slack knows the bot, and where it posts. Nothing is posted for it."""
        said = self._call("auth.test", {})
        return f"Slack answers: {said.user} of {said.team} posts to {self.channel}."

    def _call(self, method: str, body: Mapping[str, Any]) -> _Answer:
        client: Any = self.credentials.get_client()
        client.base_url, client.timeout, client.retry_handlers = f"{self.api_url.rstrip('/')}/", self.timeout_s, []
        client.proxy = client.proxy if self.api_url.startswith("https") else None
        try:
            said = asyncio.run(client.api_call(method, json=dict(body)))
        except SlackApiError as error:
            raise self._refused(method, error.response) from None
        except AttributeError:  # the library stumbles over an answer in plain text, as a gateway on the way gives it
            raise _error(f"{method} to {self.channel}", _OK, "", "") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"Slack does not answer at {self.api_url}: {type(error).__name__}") from None
        return _answer(said.data)

    def _refused(self, method: str, answer: Any) -> BlockError:
        """Of an answer that is no JSON the library gives aiohttp's own object, which calls its status otherwise."""
        status = getattr(answer, "status_code", None) or answer.status
        word = _answer(getattr(answer, "data", None)).error
        return _error(f"{method} to {self.channel}", status, word, answer.headers.get("Retry-After", ""))


class _Uneditable(Refused):
    """The message is gone, or too old to be edited."""


def announce(way: SlackChannel | SlackWebhook, message: Message, notice: Notice | None = None, *, last: bool) -> Notice:
    """Show the message: by a channel in the place of the last one, by a webhook only as the first and the last one.

    What it returns goes into the next call. Raises Unreachable, Refused: whoever calls decides what that stops.
    """
    if isinstance(way, SlackChannel):
        return way.edit(notice, message) if notice and notice["ts"] else way.post(message)
    if last or not notice:
        _send(way, message)
    return notice or Notice(channel="", ts="")


def _answer(data: object) -> _Answer:
    try:
        return _Answer.model_validate(data)
    except ValidationError:
        return _Answer()


def _send(webhook: SlackWebhook, message: Message) -> None:
    client = webhook.get_client(sync_client=True)
    if not isinstance(client, WebhookClient):
        raise TypeError(f"prefect-slack gave no webhook's client, but {type(client).__name__}")
    client.logger, client.timeout, client.retry_handlers = _SILENT, TIMEOUT_S, []
    try:
        answer = client.send_dict(dict(message))
    except (OSError, HTTPException) as error:
        raise Unreachable(f"Slack's webhook does not answer: {type(error).__name__}") from None
    if (answer.status_code, answer.body) != (_OK, "ok"):
        after = {name.lower(): value for name, value in answer.headers.items()}.get("retry-after", "")
        raise _error("a message to the webhook", answer.status_code, answer.body, str(after))


def _error(what: str, status: int, word: str, after: str) -> BlockError:
    """Slack's own word for it, if it is one: a body of somebody else's is not repeated."""
    named = word if _WORD.fullmatch(word) else f"an answer {status} that is not Slack's"
    if status == _TOO_MANY or word in _PASSES or status >= _BROKEN:
        again = f"ask again after {after} s" if after.isdecimal() else "ask again later"
        return Unreachable(f"Slack did not take {what}: {named}; {again}")
    kind = _Uneditable if word in _NOT_EDITABLE else Refused
    return kind(f"Slack refused {what}: {named}; {_ADVICE.get(word, 'its page on this method says what that means')}")
