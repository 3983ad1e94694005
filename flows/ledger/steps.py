"""A step list: a function of an operation and its recorded plan, which any process can run again by its kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from pydantic import JsonValue

from blocks.errors import Refused
from flows.records import Plan

if TYPE_CHECKING:
    from flows.ledger.hands import Settled
    from flows.ledger.operation import Operation

P = TypeVar("P", bound=Plan)
LISTS: dict[str, "Steps[Any]"] = {}


@dataclass(frozen=True)
class Steps(Generic[P]):
    """What an operation does. `forward`: begins committed; `urgent`: reconciled first; `alone`: needs no ledger.

    `told(world, plan, settled)` tells people how it ended, when reconcile settled it as its own process had died.
    """

    kind: str
    holds: Sequence[str]
    forward: bool
    urgent: bool
    alone: bool
    function: "Callable[[Operation, P], None]"
    plan_type: type[P]
    told: "Callable[[Any, P, Settled], None] | None" = None

    def scopes(self, plan: P) -> list[str]:
        """What it holds while it is open, from the plan's fields."""
        fields = {name: getattr(plan, name) for name in type(plan).model_fields}
        return sorted({scope.format(**fields) for scope in self.holds})

    def read_plan(self, recorded: JsonValue) -> P:
        """The plan of a row."""
        return self.plan_type.model_validate(recorded)


def steps(  # noqa: PLR0913 - each is a word at the head of a step list
    kind: str,
    *,
    holds: Sequence[str],
    forward: bool = False,
    urgent: bool = False,
    alone: bool = False,
    told: "Callable[[Any, Any, Settled], None] | None" = None,
) -> "Callable[[Callable[[Operation, P], None]], Steps[P]]":
    """Make a step list of a function `(op, plan)`; the plan's type is read from its annotation."""

    def wrap(function: "Callable[[Operation, P], None]") -> Steps[P]:
        known = LISTS.get(kind)
        if known and known.function.__module__ != function.__module__:
            raise TypeError(
                f"two step lists are named {kind}, in {known.function.__module__} and {function.__module__}"
            )
        plan_type = get_type_hints(function)["plan"]
        LISTS[kind] = made = Steps(kind, tuple(holds), forward, urgent, alone, function, plan_type, told)
        return made

    return wrap


def list_of(kind: str) -> Steps[Any]:
    """The step list of that kind; Refused when this code has none."""
    if kind not in LISTS:
        raise Refused(
            f"no step list named {kind} is known here: run the release that recorded it, or import its module"
        )
    return LISTS[kind]
