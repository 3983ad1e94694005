"""An operation in the hands of its holder: settings are put where the plan wants them, journalled before and after.

Invariant: the world is at most one step ahead of the journal, never behind. So a step is written down (where it stands,
where it should go) before the world is touched, and called done only after the world was read again and agreed.
Whoever runs the list again, in whatever process, finds each step either settled or as the one in doubt.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from blocks.errors import Refused
from flows.ledger import fault
from flows.ledger.engine import in_task
from flows.ledger.errors import Stopped
from flows.ledger.lease import Lease
from flows.ledger.line import Line
from flows.ledger.setting import Setting, rebuilt
from flows.ledger.statements import Journal, Row, Unwritten
from flows.records import Plan
from flows.redact import hide

if TYPE_CHECKING:
    from flows.ledger.book import Settled
    from flows.ledger.steps import Steps

Child = Callable[["Operation", str, "Steps[Any]", Plan], "Settled"]
_acting: ContextVar["Operation | None"] = ContextVar("acting", default=None)


def application_name() -> str:
    """As whom a Setting's `write` enters a Postgres: by this name a taker ends the connections of older tokens."""
    op = _acting.get()
    return "shipkeeper" if op is None or op.id is None else f"shipkeeper {op.id} {op.token}"


def still() -> None:
    """To be called by a Setting's `write` before every single command: raises when the operation is no longer ours."""
    op = _acting.get()
    if op is not None:
        op.still()


class Operation:
    """What a step list works with. Made by the ledger alone; one thread uses it."""

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        journal: Journal | Unwritten,
        world: Any,
        *,
        key: str,
        state: str = "acting",
        reason: str | None = None,
        held: tuple[Lease, Line] | None = None,
        parent: "Operation | None" = None,
        child: Child | None = None,
    ) -> None:
        self._journal, self._world, self._held = journal, world, held
        self._parent, self._child = parent, child
        self.key, self.state, self.reason = key, state, reason
        self._steps: dict[str, Row] = {}
        self.reload()

    @property
    def id(self) -> int | None:
        """Its row in the ledger; None without a ledger."""
        return self._journal.operation

    @property
    def token(self) -> int | None:
        """The fencing token: the highest one is the holder's; None without a ledger."""
        return self._journal.token

    @property
    def committed(self) -> bool:
        """Whether there is no way back; what is no step and came before the commit is not done again after it."""
        return self.state in ("committed", "done")

    @property
    def world(self) -> Any:
        """What its settings read and write; for the plain work of a list between its steps."""
        return self._world

    def begun(self, name: str) -> bool:
        """Whether the step of this name was begun, by whichever holder: a list that may leave it out asks first."""
        return name in self._steps

    def ensure(self, name: str, setting: Setting, want: JsonValue) -> JsonValue:
        """Put the setting where it is wanted, once: read, write if it differs, read again; what was read last.

        A step that is done answers with its outcome. Raises Refused when the name is used for anything else.
        """
        want = to_jsonable_python(want)
        known = self._steps.get(name)
        if known:
            self._same(known, setting, want)
        if known and known["state"] == "done":
            return known["outcome"]
        return in_task(name, lambda: self._put(name, setting, want))

    def commit(self, why: str) -> None:
        """There is no way back from here: a death is finished forward. Nothing happens when it is committed already."""
        if self.committed:
            return
        self.still()
        self._journal.move("committed", hide(why))
        self.state, self.reason = "committed", hide(why)
        fault.point("commit", self._world)

    def still(self) -> None:
        """Raises Fenced: another holds it; Unheard: the ledger cannot say; Stopped: asked to, before the commit."""
        if self._parent and not self.committed and self.state != "undoing":
            self._parent.still()
        if self._held is None:
            return
        lease, line = self._held
        lease.still(line)
        if lease.stop_asked and self.state == "acting":
            raise Stopped(f"asked to stop before the commit: {lease.stop_asked}")

    def child(self, name: str, steps: "Steps[Any]", plan: Plan) -> "Settled":
        """An operation of its own inside this one, for scopes of higher rank; Refused when it was undone."""
        self.still()
        if self._child is None:
            raise Refused(f"{self.key} cannot have a child {name}: there is no ledger")
        settled = self._child(self, f"{self.key}/{name}", steps, plan)
        if settled.state != "done":
            raise Refused(f"{name} was {settled.state}: {settled.reason}")
        return settled

    # ---- for the ledger: how an operation ends

    @contextmanager
    def as_acting(self) -> Generator[None]:
        """Within it, `still()` and `application_name()` mean this operation."""
        before = _acting.set(self)
        try:
            yield
        finally:
            _acting.reset(before)

    def settle_done(self) -> None:
        """All steps are done: commit, if the list did not, and free the scopes."""
        self.commit("all steps are done")
        self._journal.settle("done", None)
        self.state = "done"
        fault.point("settle", self._world)

    def undo(self, because: str) -> None:
        """Put every setting back to what was read, last one first, and free the scopes."""
        if self.state != "undoing":
            self._journal.move("undoing", hide(because))
            self.state, self.reason = "undoing", hide(because)
        self.reload()  # the journal knows of an intent whose answer was lost
        for step in reversed(list(self._steps.values())):
            if step["state"] != "undone":
                in_task(f"undo {step['name']}", lambda step=step: self._put_back(step))
        self._journal.settle("undone", None)
        self.state = "undone"
        fault.point("settle", self._world)

    def let_go(self, trouble: str) -> None:
        """It cannot go on now: it stays open and says why, and reconcile tries again."""
        self._journal.let_go(hide(trouble))

    def release(self) -> None:
        """Stop renewing."""
        if self._held:
            self._held[0].release()
            self._held[1].close()

    def reload(self) -> None:
        """Read the steps from the journal."""
        self._steps = {step["name"]: step for step in self._journal.steps()}

    @property
    def has_steps(self) -> bool:
        """Whether any step was written down."""
        return bool(self._steps)

    @property
    def in_doubt(self) -> Row | None:
        """The one step of which only the world knows how far it came."""
        return next((step for step in self._steps.values() if step["state"] in ("intent", "undoing")), None)

    # ---- one step

    def _put(self, name: str, setting: Setting, want: JsonValue) -> JsonValue:
        with self.as_acting():
            self.still()
            found = setting.read(self._world)
            step = self._steps[name] = self._journal.intent(self._planned(name, setting, want, found))
            if step["state"] == "done":  # the answer to `done` was lost
                return step["outcome"]
            fault.point(f"{name}:intent", self._world)
            outcome = self._move(name, setting, want, found)
            fault.point(f"{name}:acted", self._world)
            self._steps[name] = self._journal.step(name, "done", outcome)
            fault.point(f"{name}:done", self._world)
            return outcome

    def _put_back(self, step: Row) -> None:
        name = f"undo {step['name']}"
        setting = rebuilt(step["setting"], step["arguments"])
        with self.as_acting():
            self.still()
            self._journal.step(step["name"], "undoing")
            fault.point(f"{name}:intent", self._world)
            if step["back"] == "before":
                self._move(name, setting, step["before"], setting.read(self._world))
            fault.point(f"{name}:acted", self._world)
            self._journal.step(step["name"], "undone")
            fault.point(f"{name}:done", self._world)

    def _move(self, name: str, setting: Setting, want: JsonValue, found: JsonValue) -> JsonValue:
        if setting.agrees(found, want):
            return found
        self.still()  # nothing may come between this and the command
        setting.write(self._world, want)
        found = to_jsonable_python(setting.read(self._world))
        if not setting.agrees(found, want):
            raise Refused(f"{name}: wanted {short(want)}, found {short(found)} after setting it")
        return found

    def _planned(self, name: str, setting: Setting, want: JsonValue, found: JsonValue) -> dict[str, Any]:
        known = self._steps.get(name)
        return {
            "name": name,
            "position": known["position"] if known else len(self._steps) + 1,
            "setting": setting.name,
            "arguments": setting.arguments,
            "want": want,
            "before": known["before"] if known else to_jsonable_python(found),
            "back": setting.back,
        }

    def _same(self, known: Row, setting: Setting, want: JsonValue) -> None:
        recorded = (known["setting"], known["arguments"], known["want"])
        if recorded != (setting.name, setting.arguments, want):
            self._differs(known, setting, want)

    def _differs(self, known: Row, setting: Setting, want: JsonValue) -> NoReturn:
        raise Refused(
            f"step {known['name']} of {self.key} is recorded as {known['setting']} to {short(known['want'])}, now it"
            f" says {setting.name} to {short(want)}: a list depends on its plan alone, a name stands for one step"
        )


def short(value: JsonValue) -> str:
    """A value in a sentence."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."  # noqa: PLR2004 - a sentence, not a page
