"""What a deploy's message says in each of its states, and that no text of others becomes more than text."""

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some

from flows.notice import MOST_OF_A_TEXT, Facts, Going, Message, State, deploy_message, is_last, rollback_message

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
FACTS = Facts("production", "https://api.example.com", "v7 (1a2b3c4d)", "run deploy v7")
STATES: tuple[State, ...] = get_args(State)


def attachment(message: Message) -> dict[str, Any]:
    return json.loads(json.dumps(message))["attachments"][0]


def fields(message: Message) -> dict[str, str]:
    return {field["title"]: field["value"] for field in attachment(message)["fields"]}


def test_a_kept_release_reads_as_the_original_design_has_it() -> None:
    message = deploy_message(FACTS, "kept", "KEPT 60 s after go-live, healthy.", NOW)
    assert message["text"] == "Deployment to production completed"
    assert (attachment(message)["color"], attachment(message)["text"]) == ("good", "KEPT 60 s after go-live, healthy.")
    assert fields(message) == {
        "Environment": "production",
        "URL": "https://api.example.com",
        "Version": "v7 (1a2b3c4d)",
        "Deployed by": "run deploy v7",
        "Timestamp": "2026-11-25 12:00:00 UTC",
    }
    assert all(field["short"] for field in attachment(message)["fields"])


@pytest.mark.parametrize(
    ("state", "head", "colour", "last"),
    [
        ("gates", "Deployment to production: asking the gates", "#8d8d8d", False),
        ("backup", "Deployment to production: taking a backup", "#8d8d8d", False),
        ("starting", "Deployment to production: starting, no traffic yet", "#8d8d8d", False),
        ("baking", "Deployment to production: live, and watched", "#8d8d8d", False),
        ("kept", "Deployment to production completed", "good", True),
        ("inconclusive", "Deployment to production completed, inconclusive", "warning", True),
        ("held", "Deployment to production held, a person decides", "warning", True),
        ("rolled back", "Deployment to production rolled back", "danger", True),
        ("failed", "Deployment to production failed", "danger", True),
    ],
)
def test_a_state_has_its_head_and_its_colour(state: State, head: str, colour: str, last: bool) -> None:
    message = deploy_message(FACTS, state, "So it was said.", NOW)
    assert (message["text"], attachment(message)["color"], is_last(state)) == (head, colour, last)
    assert attachment(message)["text"] == "So it was said."
    assert attachment(message)["fallback"] == f"{head}: So it was said."


def test_every_message_of_a_deploy_says_the_same_facts() -> None:
    told = [fields(deploy_message(FACTS, state, "", NOW)) for state in STATES]
    assert all(one == told[0] for one in told)


@pytest.mark.parametrize(
    ("state", "head", "colour"),
    [
        ("begun", "Rollback of production begun", "#8d8d8d"),
        ("completed", "Rollback of production completed", "good"),
        ("unproven", "Rollback of production completed, not proven to help", "warning"),
        ("did not help", "Rollback of production did not help", "danger"),
        ("failed", "Rollback of production failed", "danger"),
    ],
)
def test_a_rollback_carries_its_own_sentence(state: Going, head: str, colour: str) -> None:
    message = rollback_message(FACTS, state, "v6 (99887766) serves again.", NOW)
    assert (message["text"], attachment(message)["color"]) == (head, colour)
    assert attachment(message)["text"] == "v6 (99887766) serves again."


def test_what_a_stage_does_not_say_is_no_empty_field() -> None:
    assert "URL" not in fields(deploy_message(Facts("staging", "", "v1", "ci"), "kept", "", NOW))


def test_nobody_is_called_by_a_commit() -> None:
    said = "fix: <!channel> a && b <https://evil.invalid|here>"
    message = deploy_message(FACTS, "kept", said, NOW)
    assert attachment(message)["text"] == "fix: &lt;!channel&gt; a &amp;&amp; b &lt;https://evil.invalid|here&gt;"
    assert attachment(message)["mrkdwn_in"] == []


def test_a_long_text_is_cut_before_it_is_escaped() -> None:
    said = attachment(deploy_message(FACTS, "failed", "&" * 9000, NOW))["text"]
    assert said == "&amp;" * (MOST_OF_A_TEXT - 1) + "…"


@given(some.text(), some.sampled_from(STATES))
def test_no_text_opens_a_bracket_of_slacks(text: str, state: State) -> None:
    message = deploy_message(Facts(text, text, text, text), state, text, NOW)
    everything = json.dumps(message, ensure_ascii=False)
    assert "<" not in everything
    assert ">" not in everything
