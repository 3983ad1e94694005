"""@effect and @procedure: Prefect's task and flow as this house uses them, and the gates that keep secrets out of both.

An effect keeps no result, is retried only when asking again may help (`Unreachable`), and raises nothing that holds a
secret. A procedure that fails ends its run as Failed with one plain sentence. In break glass (`without_prefect`) both
are plain functions: no server, no engine, the same order of steps.
"""

import functools
import getpass
import inspect
import logging
import os
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast, overload

from httpx import HTTPError
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.deployments import run_deployment
from prefect.exceptions import FailedRun, ParameterTypeError, PrefectException
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from blocks.errors import BlockError, Unreachable
from flows.redact import hide
from flows.stage import STAGES, Stage, StageError

P = ParamSpec("P")
R = TypeVar("R")
DELAYS_SECONDS = (1.0, 2.0, 4.0)
LOG = logging.getLogger("flows")


class NotDone(Exception):
    """What was asked for was not done; the message is the one sentence that says why and what to do."""


class Hidden(Exception):
    """Stands for a foreign exception whose own text or fields may hold a secret."""


@dataclass(frozen=True)
class BreakGlass:
    """How flows run without Prefect: `alone` also without a ledger, `yes` names who approved on the command line."""

    alone: bool = False
    yes: str = ""


_glass: list[BreakGlass] = []  # process-wide: threads do not inherit context variables


def break_glass() -> BreakGlass | None:
    """How this process runs flows without Prefect; None: under Prefect, as ever."""
    return _glass[-1] if _glass else None


def plain() -> bool:
    """Whether flows run as plain functions, without Prefect."""
    return bool(_glass)


@contextmanager
def without_prefect(*, alone: bool = False, yes: str = "") -> Generator[None]:
    """Break glass: within this context no effect and no procedure asks for a Prefect server."""
    _glass.append(BreakGlass(alone, yes))
    try:
        yield
    finally:
        _glass.pop()


class Effect(Task[P, R]):
    """A Prefect task; in break glass the function itself, with the same retries."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it under Prefect's engine, or plainly."""
        if not plain():
            return cast("Any", super()).__call__(*args, **kwargs)
        delays = list(cast("list[float]", self.retry_delay_seconds))[: self.retries]
        for delay in delays:
            try:
                return self.fn(*args, **kwargs)
            except Unreachable as error:
                LOG.warning("%s: asking again in %s s", error, delay)
                time.sleep(delay)  # the wait between two tries of one question: there is no event to await
        return self.fn(*args, **kwargs)

    def with_options(self, **options: Any) -> "Effect[P, R]":
        """Prefect returns a plain Task here; keep the class."""
        changed = cast("Any", super()).with_options(**options)
        changed.__class__ = type(self)
        return cast("Effect[P, R]", changed)


class Procedure(Flow[P, R]):
    """A Prefect flow; in break glass the function itself, its parameters checked as the UI's form would."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it under Prefect's engine, or plainly."""
        if not plain():
            return cast("Any", super()).__call__(*args, **kwargs)
        given = dict(inspect.signature(self.fn).bind(*args, **kwargs).arguments)
        try:
            checked = self.validate_parameters(given)
        except ParameterTypeError as error:
            wrong = "; ".join(line.strip(" -") for line in str(error).splitlines()[1:])
            raise NotDone(f"{self.name} was not begun: {hide(wrong)}") from None
        return self.fn(**checked)  # type: ignore[call-arg]


@overload
def effect(function: Callable[P, R], /) -> Effect[P, R]: ...
@overload
def effect(*, name: str = ..., retries: int = ..., **options: Any) -> Callable[[Callable[P, R]], Effect[P, R]]: ...
def effect(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """A task that asks or changes the world: asked again when nothing answered, no cache, no secret in its errors."""
    if function is None:
        return functools.partial(effect, **options)
    defaults: dict[str, Any] = {
        "cache_policy": NO_CACHE,
        "persist_result": False,
        "retries": len(DELAYS_SECONDS),
        "retry_delay_seconds": list(DELAYS_SECONDS),
        "retry_condition_fn": _worth_asking_again,
        "task_run_name": options.get("name"),  # without one Prefect adds a hash to the name
    }
    return Effect(_guarded(function), **(defaults | options))


def procedure(**options: Any) -> Callable[[Callable[P, R]], Procedure[P, R]]:
    """A flow whose state's message is one plain sentence: what it came to, or, Failed, why it was not done."""

    def wrap(function: Callable[P, R]) -> Procedure[P, R]:
        settings: dict[str, Any] = {"persist_result": False, "validate_parameters": True} | options
        return Procedure(_sentenced(function), **settings)

    return wrap


def run_name(template: str) -> Callable[[], str]:
    """A run's name after what it does: filled from its parameters and `database`, the stage's database."""

    def name() -> str:
        given: dict[str, Any] = dict(flow_run.parameters)
        return template.format(**(given | {"database": _database(str(given.get("stage", "")))}))

    return name


@dataclass(frozen=True)
class Asked:
    """What came of asking for another run: its name, empty where none was asked for; as text the whole sentence."""

    run: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def ask_for(flow: str, stage: str, parameters: Mapping[str, Any], *, key: str) -> Asked:
    """Ask for another deployment's run; the same key again asks for nothing new. Where nobody was asked, it says so."""
    given = "".join(f" --param {name}={value}" for name, value in parameters.items() if name != "stage")
    if plain():
        command = f"python -m deployments run {flow} --stage {stage}{given}"
        return Asked("", f"{flow} was not asked for, as no Prefect server is used here; do it with: {command}")
    try:
        asked: Any = run_deployment(
            f"{flow}/{stage}",
            parameters={"stage": stage, **parameters},
            flow_run_name=" ".join([flow, *map(str, parameters.values())]) if parameters else f"{flow} {stage}",
            timeout=0,
            idempotency_key=key,
            as_subflow=False,
        )
    except (HTTPError, PrefectException) as error:  # what was done is done: that nobody was asked is only said
        why = f"{flow} could not be asked for ({type(error).__name__}): is its deployment {flow}/{stage} applied?"
        return Asked("", f"{why} Then do it with: prefect deployment run {flow}/{stage}{given}")
    return Asked(asked.name, f"{flow} asked for: run {asked.name}")


def actor() -> str:
    """Who acts, for the record and for whoever meets a held resource: the run's name, or the person at the shell."""
    return f"run {flow_run.name}" if not plain() and flow_run.name else f"{getpass.getuser()}, in break glass"


def stage_named(name: str) -> Stage:
    """The stage of that name, from deployments/stages or from the folder that SHIPKEEPER_STAGES names."""
    return Stage.named(name, Path(os.environ.get("SHIPKEEPER_STAGES") or STAGES))


def _database(stage: str) -> str:
    try:
        return stage_named(stage).database.name
    except StageError:  # the run itself says so, in its one sentence
        return stage


def _worth_asking_again(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), Unreachable)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (BlockError, NotDone) as error:
            error.args, error.__cause__, error.__context__ = (hide(str(error)),), None, None
            raise
        except Hidden:
            raise
        except Exception as error:  # noqa: BLE001 - raised again, without what it may hold
            LOG.debug("%s", hide(traceback.format_exc()))
            raise Hidden(hide(f"{type(error).__name__}: {error}")).with_traceback(error.__traceback__) from None

    return guarded


def _sentenced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def sentenced(*args: Any, **kwargs: Any) -> Any:
        try:
            said = function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - becomes the run's Failed state
            if not isinstance(error, (BlockError, NotDone, StageError, ValueError)):
                LOG.error("%s", hide(traceback.format_exc()))  # noqa: TRY400 - the text is hidden first
            sentence = hide(str(error)) or type(error).__name__
            if plain():
                raise NotDone(sentence) from None
            LOG.error("%s", sentence)  # noqa: TRY400 - a sentence for people, no traceback
            return Failed(message=sentence)
        return said if plain() or not isinstance(said, str) else Completed(message=hide(said), data=said)

    return sentenced


class _Hide(logging.Filter):
    """Hides known secrets in every record that passes a handler; drops the traceback of Prefect's own FailedRun."""

    shape = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], FailedRun):
            return False  # the line before it names the state and its sentence
        record.msg, record.args = hide(record.getMessage()), None
        if record.exc_info and record.exc_info[0]:
            record.exc_text = hide(self.shape.formatException(record.exc_info))
        return True


def _guard_logs() -> None:
    names = ("", "prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.extra", "prefect.workers")
    for handler in {handler for name in names for handler in logging.getLogger(name).handlers}:
        if not any(isinstance(each, _Hide) for each in handler.filters):
            handler.addFilter(_Hide())


_guard_logs()
LOG.setLevel(logging.INFO)
