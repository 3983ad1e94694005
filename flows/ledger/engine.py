"""Where the ledger touches Prefect: a step is a task, a run has an id, the run of a dead holder is marked Crashed.

Prefect is the engine and the window, never the memory. Outside a flow run all this is plain: reconcile's threads,
a crash test's bare process.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import JsonValue

Act = Callable[[], JsonValue]


def in_task(name: str, act: Act) -> JsonValue:
    """Run one step as the task of that name where there is an engine, else as it is; break glass says its name."""
    if _plain():
        _say(name)
    elif run_id() is None:
        return act()
    return _task()(name, act)


def run_id() -> UUID | None:
    """The flow run that this is; importing Prefect only to hear that there is none would cost a second."""
    context: Any = sys.modules.get("prefect.context")
    run = context.FlowRunContext.get() if context else None
    return run.flow_run.id if run and run.flow_run else None


def mark_crashed(run: UUID | None) -> str:
    """A dead holder's run shows RUNNING for ever, so it is marked Crashed; a sentence, or "" for nothing to mark.

    Prefect is the window alone: when it cannot be told, that is said, and holds up nothing.
    """
    if run is None or _plain() or "prefect.context" not in sys.modules:
        return ""
    from httpx import HTTPError
    from prefect.exceptions import ObjectNotFound, PrefectException

    try:
        return _marked_crashed(run)
    except ObjectNotFound:
        return ""
    except (HTTPError, PrefectException, ValueError) as error:
        return f"run {run} of a dead process could not be marked as crashed: {type(error).__name__}"


def _marked_crashed(run: UUID) -> str:
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        if state is None or not state.is_running():
            return ""
        client.set_flow_run_state(
            run, Crashed(message="its process died; reconcile took over its operation"), force=True
        )
    return f"marked run {run} as crashed"


def _say(step: str) -> None:
    from flows import people

    people.say(f"step: {step}")


def _plain() -> bool:
    effect: Any = sys.modules.get("flows.effect")
    return bool(effect and effect.plain())


@cache
def _task() -> Callable[[str, Act], JsonValue]:
    from flows.effect import effect

    @effect(task_run_name="{name}")
    def step(name: str, act: Act) -> JsonValue:  # noqa: ARG001 - the task run is named by it
        return act()

    return step
