"""Random plans, random deaths, and what must be true afterwards whatever happened."""

import itertools
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import strategies as st

from blocks.postgres.address import Address
from tests.parts.deaths import DIED, expire
from tests.parts.killing import MOMENTS, Book
from tests.parts.nursery import Nursery
from tests.parts.toys import ToyFile, ToyPlan, ToyWorld, toy_arguments, toy_ledger

AGAIN, SETTLE = "tests.parts.toys:run", "tests.parts.toys:settle"
NUMBER = itertools.count()
BASE = {"a": 0, "b": 0}
Death = tuple[str, bool]  # where it dies, and whether the next to come is reconcile (else the same key again)


@st.composite
def plans(draw: st.DrawFn) -> ToyPlan:
    """Some moves, settings touched twice among them, a commit somewhere, perhaps a bad verdict."""
    move = st.tuples(st.sampled_from("abc"), st.sampled_from([None, 1, 2]))
    moves = tuple(draw(st.lists(move, min_size=1, max_size=4)))
    number = next(NUMBER)
    commit_at = draw(st.integers(0, len(moves)))
    return ToyPlan(stage=f"toy{number}", moves=moves, commit_at=commit_at, bad=draw(st.booleans()))


def deaths() -> st.SearchStrategy[list[Death]]:
    """One to four, in the run, its undo or a reconcile; those whose point is never reached do nothing."""
    moments = [f"{undo}move {number}:{moment}" for undo in ("", "undo ") for number in range(4) for moment in MOMENTS]
    return st.lists(st.tuples(st.sampled_from([*moments, "commit", "settle"]), st.booleans()), min_size=1, max_size=4)


def check(nursery: Nursery, address: Address, plan: ToyPlan, deaths: list[Death]) -> None:
    """Run the plan through its deaths; whoever comes next takes over; then look at the world and the journal."""
    with tempfile.TemporaryDirectory() as folder:
        world = ToyWorld(Path(folder), address)
        for name, value in BASE.items():
            ToyFile(name).write(world, value)
        _run(nursery, world, plan, deaths)
        with closing(toy_ledger(world)) as ledger:
            book = Book(ledger, plan.stage)
            assert book.operation()["ended_at"], "it is not settled"
            assert not book.wrong()
            assert world.cells() == _expected(plan, book.operation()["state"])


def _run(nursery: Nursery, world: ToyWorld, plan: ToyPlan, deaths: list[Death]) -> None:
    arguments = toy_arguments(world, "toy moves", plan, plan.stage)

    def ended(act: str, point: str = "") -> int:
        return nursery.start(act, arguments, {"FAULT_AT": point, "FAULT": "kill"}).finish(60)

    comes = [AGAIN, *(SETTLE if by_reconcile else AGAIN for _, by_reconcile in deaths)]
    points = [*(point for point, _ in deaths), ""]
    for act, point in zip(comes, points, strict=True):
        if ended(act, point) != DIED:
            break
        expire(world.address)
    ended(AGAIN)


def _expected(plan: ToyPlan, state: str) -> dict[str, int | None]:
    moved = BASE | dict(plan.moves) if state == "done" else BASE
    return {name: value for name, value in moved.items() if value is not None}
