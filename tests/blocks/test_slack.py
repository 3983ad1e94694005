"""One message that is edited, or two by a webhook; and what Slack refuses is never swallowed: on this machine."""

import json
import logging
import socket

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from prefect_slack import SlackCredentials, SlackWebhook
from pydantic import SecretStr, ValidationError

from blocks.errors import BlockError, Refused, Unreachable
from blocks.slack import Message, SlackChannel, announce
from tests.parts.slack import CHANNEL, CHANNEL_ID, HOOK, TOKEN, FakeSlack

pytest_plugins = ["tests.parts.slack"]
BEGIN: Message = {"text": "begins", "attachments": [{"color": "#808080", "text": "a & b"}]}
MIDDLE: Message = {"text": "goes", "attachments": []}
END: Message = {"text": "ended", "attachments": [{"color": "good"}]}
WORD = {"Content-Type": "application/json; charset=utf-8"}


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return SlackChannel

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's own fetches it from the net."""
        assert str(getattr(block, "_logo_url", None)).startswith("https://")


@pytest.fixture
def channel(slack: FakeSlack) -> SlackChannel:
    return opened(slack)


@pytest.fixture
def webhook(slack: FakeSlack) -> SlackWebhook:
    return SlackWebhook(url=SecretStr(slack.hook))


def opened(slack: FakeSlack, token: str = TOKEN, channel: str = CHANNEL) -> SlackChannel:
    return SlackChannel(credentials=SlackCredentials(token=SecretStr(token)), channel=channel, api_url=slack.url)


# One message


def test_a_message_is_posted_once_and_then_edited(slack: FakeSlack, channel: SlackChannel) -> None:
    notice = announce(channel, BEGIN, last=False)
    notice = announce(channel, MIDDLE, notice, last=False)
    announce(channel, END, notice, last=True)
    assert list(slack.messages.values()) == [END]
    assert slack.asked == ["/api/chat.postMessage", "/api/chat.update", "/api/chat.update"]


def test_the_handle_is_json_and_names_the_channel_by_its_id(slack: FakeSlack, channel: SlackChannel) -> None:
    notice = json.loads(json.dumps(announce(channel, BEGIN, last=False)))
    assert notice == {"channel": CHANNEL_ID, "ts": "1795608000.000001"}
    announce(opened(slack), END, notice, last=True)
    assert list(slack.messages.values()) == [END]


def test_what_is_sent_arrives_as_it_was_given(slack: FakeSlack, channel: SlackChannel) -> None:
    said: Message = {"text": "비디오 &amp; 1 &lt; 2 \U0001f511", "attachments": [{"fields": [{"short": True}]}]}
    announce(channel, said, last=True)
    assert list(slack.messages.values()) == [said]


def test_a_deleted_message_is_posted_anew(slack: FakeSlack, channel: SlackChannel) -> None:
    notice = announce(channel, BEGIN, last=False)
    announce(channel, BEGIN, last=False)
    del slack.messages[notice["ts"]]
    again = announce(channel, END, notice, last=True)
    assert again != notice
    assert list(slack.messages.values()) == [BEGIN, END]


def test_a_message_that_may_not_be_edited_any_more_is_followed_by_another(
    slack: FakeSlack, channel: SlackChannel
) -> None:
    notice = announce(channel, BEGIN, last=False)
    slack.editable = False
    announce(channel, END, notice, last=True)
    assert list(slack.messages.values()) == [BEGIN, END]


# Two messages


def test_a_webhook_tells_begin_and_end(slack: FakeSlack, webhook: SlackWebhook) -> None:
    notice = announce(webhook, BEGIN, last=False)
    for _ in range(3):
        notice = announce(webhook, MIDDLE, notice, last=False)
    announce(webhook, END, notice, last=True)
    assert slack.hooked == [BEGIN, END]
    assert json.loads(json.dumps(notice)) == {"channel": "", "ts": ""}


def test_who_goes_on_with_a_channel_after_a_webhook_posts(slack: FakeSlack, webhook: SlackWebhook) -> None:
    announce(opened(slack), END, announce(webhook, BEGIN, last=False), last=True)
    assert (slack.hooked, list(slack.messages.values())) == ([BEGIN], [END])


# What Slack refuses


def test_a_refusal_inside_a_200_is_an_error(slack: FakeSlack, channel: SlackChannel) -> None:
    slack.member = False
    with pytest.raises(Refused, match=r"chat.postMessage to #deploys: not_in_channel; invite the bot to the channel$"):
        announce(channel, BEGIN, last=False)
    assert not slack.messages


def test_a_refused_edit_is_an_error_too(slack: FakeSlack, channel: SlackChannel) -> None:
    notice = announce(channel, BEGIN, last=False)
    slack.archived = True
    with pytest.raises(Refused, match=r"chat.update to #deploys: is_archived; name a channel that is in use"):
        announce(channel, END, notice, last=True)


def test_a_wrong_token_is_refused(slack: FakeSlack) -> None:
    with pytest.raises(Refused, match="invalid_auth; save a new bot token"):
        announce(opened(slack, "xoxb-wrong-canary"), BEGIN, last=False)


def test_a_missing_scope_is_named(slack: FakeSlack, channel: SlackChannel) -> None:
    slack.scopes = frozenset()
    with pytest.raises(Refused, match="missing_scope; give the app the scope chat:write"):
        announce(channel, BEGIN, last=False)


def test_an_unknown_channel_is_refused(slack: FakeSlack) -> None:
    with pytest.raises(Refused, match="to #depolys: channel_not_found; name a channel that is there"):
        announce(opened(slack, channel="#depolys"), BEGIN, last=False)


def test_an_error_without_advice_is_named_still(channel: SlackChannel) -> None:
    with pytest.raises(Refused, match="no_text; its page on this method says what that means"):
        announce(channel, {}, last=False)


def test_a_webhook_that_was_taken_back_is_refused(slack: FakeSlack) -> None:
    gone = SlackWebhook(url=SecretStr(slack.hook + "gone"))
    with pytest.raises(Refused, match="a message to the webhook: no_service; make a new webhook and save it"):
        announce(gone, BEGIN, last=False)


def test_a_webhook_of_an_archived_channel_is_refused(slack: FakeSlack, webhook: SlackWebhook) -> None:
    slack.archived = True
    with pytest.raises(Refused, match="channel_is_archived"):
        announce(webhook, BEGIN, last=False)


def test_a_webhook_that_says_ok_false_with_200_has_not_sent(slack: FakeSlack, webhook: SlackWebhook) -> None:
    slack.instead = [(200, '{"ok": false, "error": "invalid_payload"}', WORD)]
    with pytest.raises(Refused, match="an answer 200 that is not Slack's"):
        announce(webhook, BEGIN, last=False)


# When it does not answer


@pytest.mark.parametrize(
    ("code", "said", "sentence"),
    [
        (429, '{"ok": false, "error": "ratelimited"}', "ratelimited; ask again after 7 s$"),
        (200, '{"ok": false, "error": "internal_error"}', "internal_error; ask again after 7 s$"),
        (503, '{"ok": false, "error": "service_unavailable"}', "service_unavailable; ask again"),
        (502, "<html>canary</html>", "an answer 502 that is not Slack's; ask again after 7 s$"),
    ],
)
def test_what_passes_may_be_sent_again(
    slack: FakeSlack, channel: SlackChannel, code: int, said: str, sentence: str
) -> None:
    slack.instead = [(code, said, {**WORD, "Retry-After": "7"})]
    with pytest.raises(Unreachable, match=sentence):
        announce(channel, BEGIN, last=False)
    assert slack.asked == ["/api/chat.postMessage"]


@pytest.mark.parametrize(
    ("code", "said", "sentence"),
    [(429, "rate_limited", "rate_limited; ask again after 7 s$"), (500, "rollup_error", "rollup_error; ask again")],
)
def test_a_webhook_that_passes_may_be_sent_again(
    slack: FakeSlack, webhook: SlackWebhook, code: int, said: str, sentence: str
) -> None:
    slack.instead = [(code, said, {"Retry-After": "7"})]
    with pytest.raises(Unreachable, match=sentence):
        announce(webhook, BEGIN, last=False)
    assert slack.asked == [HOOK]


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "application/json"])
def test_a_page_of_somebody_elses_is_refused_and_not_repeated(
    slack: FakeSlack, channel: SlackChannel, webhook: SlackWebhook, kind: str
) -> None:
    for way in (channel, webhook):
        slack.instead = [(200, "<html>Please log in, canary-4711</html>", {"Content-Type": kind})]
        with pytest.raises(Refused, match="an answer 200 that is not Slack's") as caught:
            announce(way, BEGIN, last=False)
        assert "canary" not in str(caught.value)


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api/"
    credentials = SlackCredentials(token=SecretStr(TOKEN))
    with pytest.raises(Unreachable, match=f"Slack does not answer at {url}: ClientConnectorError"):
        announce(SlackChannel(credentials=credentials, channel=CHANNEL, api_url=url), BEGIN, last=False)
    with pytest.raises(Unreachable, match="Slack's webhook does not answer: URLError"):
        announce(SlackWebhook(url=SecretStr(url)), BEGIN, last=False)


def test_an_answer_that_does_not_come_ends_at_the_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api/"
        credentials = SlackCredentials(token=SecretStr(TOKEN))
        channel = SlackChannel(credentials=credentials, channel=CHANNEL, api_url=url, timeout_s=1)
        with pytest.raises(Unreachable, match="TimeoutError"):
            announce(channel, BEGIN, last=False)


# Who we are


def test_the_check_says_as_whom_we_post_and_posts_nothing(slack: FakeSlack, channel: SlackChannel) -> None:
    assert channel.check() == "Slack answers: shipkeeper of Curator posts to #deploys."
    assert not slack.messages


def test_the_secrets_are_in_no_error_and_no_log(
    slack: FakeSlack, channel: SlackChannel, webhook: SlackWebhook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = [repr(channel), repr(webhook), str(channel.model_dump())]
    for way in (channel, webhook):
        for code in (200, 403, 500):
            slack.instead = [(code, f"{TOKEN} {HOOK}", {})]
            with pytest.raises(BlockError) as caught:
                announce(way, BEGIN, last=False)
            told.append(str(caught.value))
        announce(way, BEGIN, last=True)
    everything = "".join([*told, caplog.text])
    assert "Sending a request" in caplog.text  # the library does speak at this level
    assert TOKEN not in everything
    assert "webhook-canary" not in everything


def test_the_token_travels_encrypted_or_stays_on_this_machine() -> None:
    with pytest.raises(ValidationError, match="api_url"):
        SlackChannel(
            credentials=SlackCredentials(token=SecretStr(TOKEN)), channel=CHANNEL, api_url="http://slack.invalid/api/"
        )
