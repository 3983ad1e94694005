"""What people read of a deploy or rollback while it goes: one message for Slack, the same facts in each state. Pure.

The facts are the original design's: Environment, URL, Version, Deployed by, timestamp. What happened is said by the
sentence of whoever decided it; here it only gets its head and its colour. Every text of others is escaped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from flows.words import moment

State = Literal["gates", "backup", "starting", "baking", "kept", "inconclusive", "rolled back", "failed", "held"]
Going = Literal["begun", "completed", "unproven", "did not help", "failed"]
Message = Mapping[str, JsonValue]
MOST_OF_A_TEXT = 3000  # characters; Slack takes more, nobody reads it

_GOING, _GOOD, _WARNING, _DANGER = "#8d8d8d", "good", "warning", "danger"
_HEADS: Mapping[State, tuple[str, str]] = {
    "gates": ("Deployment to {stage}: asking the gates", _GOING),
    "backup": ("Deployment to {stage}: taking a backup", _GOING),
    "starting": ("Deployment to {stage}: starting, no traffic yet", _GOING),
    "baking": ("Deployment to {stage}: live, and watched", _GOING),
    "kept": ("Deployment to {stage} completed", _GOOD),
    "inconclusive": ("Deployment to {stage} completed, inconclusive", _WARNING),
    "held": ("Deployment to {stage} held, a person decides", _WARNING),
    "rolled back": ("Deployment to {stage} rolled back", _DANGER),
    "failed": ("Deployment to {stage} failed", _DANGER),
}
_GOING_BACK: Mapping[Going, tuple[str, str]] = {
    "begun": ("Rollback of {stage} begun", _GOING),
    "completed": ("Rollback of {stage} completed", _GOOD),
    "unproven": ("Rollback of {stage} completed, not proven to help", _WARNING),
    "did not help": ("Rollback of {stage} did not help", _DANGER),
    "failed": ("Rollback of {stage} failed", _DANGER),
}


@dataclass(frozen=True)
class Facts:
    """What every message of one deploy or rollback says."""

    stage: str
    url: str
    version: str  # as people say it, `v7 (1a2b3c4d)`
    by: str


def is_last(state: State) -> bool:
    """Whether nothing comes after it: the message that a webhook sends, too."""
    return _HEADS[state][1] != _GOING


def deploy_message(facts: Facts, state: State, said: str, at: datetime) -> Message:
    """The message of a deploy in this state; `said` is its sentence: of the plan, of the last look, of the verdict."""
    head, colour = _HEADS[state]
    return _message(head.format(stage=facts.stage), colour, facts, said, at)


def rollback_message(facts: Facts, state: Going, said: str, at: datetime) -> Message:
    """The message of a rollback that a person asked for, with the rollback's own sentence."""
    head, colour = _GOING_BACK[state]
    return _message(head.format(stage=facts.stage), colour, facts, said, at)


def _message(head: str, colour: str, facts: Facts, said: str, at: datetime) -> Message:
    told = {
        "Environment": facts.stage,
        "URL": facts.url,
        "Version": facts.version,
        "Deployed by": facts.by,
        "Timestamp": moment(at),
    }
    fields: list[JsonValue] = [
        {"title": title, "value": _plain(value), "short": True} for title, value in told.items() if value
    ]
    attachment: JsonValue = {
        "color": colour,
        "fallback": _plain(f"{head}: {said}"),
        "text": _plain(said),
        "mrkdwn_in": [],  # a star in a sentence is a star
        "fields": fields,
    }
    return {"text": _plain(head), "attachments": [attachment]}


def _plain(text: str) -> str:
    """Short enough, and with the three characters escaped by which a text could name people, channels and links."""
    short = text if len(text) <= MOST_OF_A_TEXT else f"{text[: MOST_OF_A_TEXT - 1]}…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
