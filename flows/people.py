"""What a person sees and answers: progress, reports, tables, approvals, a message on Slack.

Under Prefect these are artifacts and forms; in break glass the same texts on the terminal. Every text is redacted here:
Prefect stores it in clear. This module decides nothing.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectException
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect_slack import SlackWebhook
from pydantic import Field
from rich.cells import cell_len, set_cell_size

from blocks.errors import BlockError
from blocks.slack import Message, Notice, SlackChannel, announce
from flows.approval import approves, in_form
from flows.effect import NotDone, break_glass, plain
from flows.redact import hide, hide_all

LOG = logging.getLogger("flows.people")
PROGRESS_SECONDS = 1.0  # a progress artifact is an HTTP request: one a second is enough for eyes
TERMINAL = 160  # characters that a line may have there
APPROVAL_SECONDS = 24 * 3600
LEAVE_IT = "The digest of the plan above (the artifact restore-plan shows all of it). Leave it as it is."
Keep = Callable[[Notice], None]
AWAY = (HTTPError, PrefectException)  # a Prefect server that restarts
_outcome: dict[str, str | int | None] = {}  # process-wide, as break glass is


class Progress:
    """A progress bar that people watch: fraction done, and a line in the log when the text says something new.

    It never ends the work that it shows: a Prefect server that is away is told once.
    """

    def __init__(self, key: str, description: str) -> None:
        self._shown, self._at = -1.0, 0.0
        self._artifact: UUID | None = None
        self._said_away = False
        if not plain():
            with self._server_may_be_away():
                made = create_progress_artifact(progress=0.0, key=_key(key), description=hide(description))
                self._artifact = _uuid(made)

    def show(self, fraction: float, text: str) -> None:
        """Show `fraction` (0 to 1) with its line of text, at most once a second but for the end."""
        now = time.monotonic()
        if fraction < 1 and now - self._at < PROGRESS_SECONDS:
            return
        self._at = now
        LOG.info("%s", hide(text))
        percent = round(100 * min(max(fraction, 0.0), 1.0), 1)
        if self._artifact and percent != self._shown:
            self._shown = percent
            with self._server_may_be_away():
                update_progress_artifact(self._artifact, progress=percent)

    @contextmanager
    def _server_may_be_away(self) -> Generator[None]:
        try:
            yield
        except AWAY as error:
            if not self._said_away:
                LOG.warning("the progress is not shown (%s): the work goes on", _named(error))
            self._said_away = True


class Announcement:
    """One message on Slack, edited as the work goes on (by a webhook: its first and its last state).

    It never ends the work that it tells of: what Slack does not take is a line in the log.
    """

    def __init__(self, way: SlackChannel | SlackWebhook | None) -> None:
        self._way = way
        self._notice: Notice | None = None
        self._keep: Keep = _forget
        self._at, self._is_over = -math.inf, False

    def go_on(self, kept: Notice | None, keep: Keep) -> None:
        """Edit the message that was kept for this work, if there is one; `keep` remembers it from now on."""
        self._notice, self._keep = self._notice or kept, keep
        if self._notice:
            keep(self._notice)

    def show(self, message: Message, *, last: bool = False, every_s: float = 0.0) -> None:
        """Show this state, unless one was shown less than `every_s` ago; after the last one there is none."""
        if self._way is None or self._is_over or time.monotonic() - self._at < every_s:
            return
        self._at, self._is_over = time.monotonic(), last
        shown: Any = hide_all(message)
        try:
            self._notice = announce(self._way, shown, self._notice, last=last)
            self._keep(self._notice)
        except BlockError as silent:
            LOG.warning("people were not told: %s", hide(str(silent)))


def _forget(_notice: Notice) -> None: ...


def say(text: str) -> None:
    """One line for the run's log, or the terminal."""
    LOG.info("%s", hide(text))


def report(key: str, markdown: str, description: str) -> None:
    """A page for people: Markdown (charts as SVG data URIs), under a key that keeps its history."""
    if plain():
        LOG.info("%s\n%s", hide(description), hide(_without_images(markdown)))
        return
    say(description)
    try:
        create_markdown_artifact(key=_key(key), markdown=_hide_but_images(markdown), description=hide(description))
    except AWAY as error:
        _not_shown(key, error)


def table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table for people, a mapping a row."""
    shown: Any = hide_all([dict(row) for row in rows])
    if plain():
        LOG.info("%s\n%s", hide(description), _in_columns(shown))
        return
    try:
        create_table_artifact(key=_key(key), table=shown, description=hide(description))
    except AWAY as error:
        _not_shown(key, error)


def outcome(**facts: str | int | None) -> None:
    """What came of this run, by name, for a script that runs it in break glass (`--json`); a later fact rules."""
    if plain():
        _outcome.update(facts)


def take_outcome() -> dict[str, str | int | None]:
    """What was told so far, and no longer kept."""
    told = dict(_outcome)
    _outcome.clear()
    return told


def rename_run(name: str) -> None:
    """Give the running flow run the name of what it does, once that is known."""
    if plain() or not flow_run.id:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(str(flow_run.id)), name=hide(name))


def run_key() -> str:
    """What stays the same when this run is suspended and started again from its first line: the flow run's id."""
    return str(flow_run.id) if not plain() and flow_run.id else f"break-glass-{time.time_ns():x}"


class Approval(RunInput):
    """The form a person answers; `database` has no initial value, so an empty answer is refused."""

    database: str = Field(title="Live database", description="Type the name of the live database that is swapped out.")
    approved_by: str = Field(title="Approved by", description="Your name, for the record.")
    plan: str = Field(title="Plan", description=LEAVE_IT)


def approve(question: str, *, database: str, digest: str) -> str:
    """Ask a person to approve the plan with this digest by typing the database's name; returns who approved.

    Under Prefect the run is suspended until the form is answered and starts again from its first line; in break glass
    --yes names who approved. Any other answer raises NotDone.
    """
    if glass := break_glass():
        if not glass.yes:
            raise NotDone("the swap was not approved: look at the plan, then say who approves it with --yes NAME")
        return glass.yes
    # Filled in by the form alone. As a field's default, an answer without it would be given that of a later plan.
    filled_in: Any = {"default": in_form(digest)}
    shown: Any = Field(title="Plan", description=LEAVE_IT, json_schema_extra=filled_in)
    form: Any = Approval.with_initial_data(description=hide(question), plan=shown)
    answer: Approval = suspend_flow_run(wait_for_input=form, timeout=APPROVAL_SECONDS)  # pyright: ignore[reportAssignmentType] - sync here
    verdict = approves(answer.database, answer.plan, database=database, digest=digest)
    if not verdict.go:
        raise NotDone(verdict.reason)
    return answer.approved_by


def plan_in_form(client: SyncPrefectClient, run: FlowRun) -> str | None:
    """What stands under `plan` in the form of a run that waits for its approval, for who answers it without the UI.

    None until Prefect has the form: it is kept shortly after the run's state.
    """
    keyset = (run.state and run.state.state_details.run_input_keyset) or {}
    forms = client.filter_flow_run_input(run.id, keyset["schema"], limit=1, exclude_keys=set())
    return str(json.loads(forms[0].value)["properties"]["plan"]["default"]) if forms else None


def to_terminal() -> None:
    """In break glass the log is the terminal: bare sentences on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers, LOG.propagate = [handler], False


def _not_shown(key: str, error: Exception) -> None:
    LOG.warning("%s is not kept as a page (%s): what was done is done", key, _named(error))


def _named(error: Exception) -> str:
    return type(error).__name__  # its text may hold a body


def _key(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-")


def _uuid(value: Any) -> UUID:
    return UUID(str(value))


def _in_columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal: a line a row, or a line a value where that would be too wide; without what nobody filled."""
    texts = [{name: _cell(value) for name, value in row.items()} for row in rows]
    names = list(dict.fromkeys(name for row in texts for name, text in row.items() if text))
    lines = [names, *([row.get(name, "") for name in names] for row in texts)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if sum(widths) + 2 * len(widths) > TERMINAL:
        return "\n".join(f"\n{line[0]}\n" + _in_lines(names[1:], line[1:]) for line in lines[1:])
    return "\n".join("  ".join(map(set_cell_size, line, widths)).rstrip() for line in lines)


def _cell(value: Any) -> str:
    """One line that no terminal obeys."""
    text = "" if value is None else " ".join(str(value).split())
    return "".join(letter for letter in text if letter.isprintable())


def _in_lines(names: Sequence[str], values: Sequence[str]) -> str:
    return "\n".join(f"  {name}: {value}" for name, value in zip(names, values, strict=True) if value)


def _without_images(markdown: str) -> str:
    return "\n".join(line for line in markdown.splitlines() if not line.startswith("!["))


def _hide_but_images(markdown: str) -> str:
    return "\n".join(line if line.startswith("![") else hide(line) for line in markdown.splitlines())
