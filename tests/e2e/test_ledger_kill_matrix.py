"""The toy lists killed and stopped at every point, each run a process of its own; and many more random deaths."""

import hashlib
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from psycopg import sql

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from tests.parts import random_deaths
from tests.parts.killing import Arguments, Matrix
from tests.parts.ledger import ledger_database
from tests.parts.nursery import Nursery
from tests.parts.toys import ToyFile, ToyPlan, ToyWorld, ledger_of, toy_arguments, world_of

LEASE_S = 1.5
COPYING = threading.Lock()  # Postgres copies a database only while nobody else does


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    """A ledger that is only copied: each try has its own, as a reconciler settles all that is open in one."""
    yield from ledger_database(postgres17)


def copied(template: Address, label: str) -> Address:
    name = f"toy_{hashlib.sha256(label.encode()).hexdigest()[:12]}"
    with template.at("postgres").connect() as connection, COPYING:
        source, target = sql.Identifier(template.database), sql.Identifier(name)
        connection.execute(sql.SQL("create database {} template {}").format(target, source))
    return template.at(name)


@pytest.fixture(scope="module")
def nursery() -> Generator[Nursery]:
    with Nursery("tests.parts.toys") as made:
        yield made


def matrix(folder: Path, address: Address, nursery: Nursery, kind: str, **plan: Any) -> Matrix:
    """The toy list of that kind; each try has its own folder, rows and scopes."""

    def fresh(point: str) -> Arguments:
        label = f"{folder.name}-{point}"
        place = folder / label
        place.mkdir()
        own = copied(address, str(place))
        world = ToyWorld(place, own)
        for name in ("blue", "x", "y"):
            ToyFile(name).write(world, "running")
        made = ToyPlan(stage=label, database=label, **plan)
        return toy_arguments(world, kind, made, label, LEASE_S)

    return Matrix(
        run="tests.parts.toys:run",
        fresh=fresh,
        ledger=ledger_of,
        nursery=nursery,
        fingerprint=lambda arguments: [*world_of(arguments).written()],
    )


MOVES = (("x", 1), ("y", 2), ("x", None))
LISTS: list[tuple[dict[str, Any], int]] = [
    ({"kind": "toy deploy"}, 14),
    ({"kind": "toy deploy", "bad": True}, 19),
    ({"kind": "toy moves", "moves": MOVES, "commit_at": 2}, 11),
    ({"kind": "toy prune", "moves": (("x", None), ("y", None))}, 7),
]


@pytest.mark.parametrize(("made", "points"), LISTS, ids=["deploy", "bad deploy", "moves", "prune"])
def test_every_point_of_a_list_can_be_the_last(
    tmp_path: Path, address: Address, nursery: Nursery, made: dict[str, Any], points: int
) -> None:
    killed = matrix(tmp_path, address, nursery, **made)
    found = killed.points()

    assert len(found) == points
    assert not killed.complaints(found)


def test_the_matrix_can_fail(tmp_path: Path, address: Address, nursery: Nursery) -> None:
    """A list that writes behind the journal's back is caught."""
    killed = matrix(tmp_path, address, nursery, "toy cheat")

    assert killed.complain("commit", "kill") == ["commit kill: a: should be 1, is 2"]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate])
@given(plan=random_deaths.plans(), deaths=random_deaths.deaths())
def test_four_hundred_plans_end_as_wanted_or_as_before(
    nursery: Nursery, address: Address, plan: ToyPlan, deaths: list[random_deaths.Death]
) -> None:
    random_deaths.check(nursery, address, plan, deaths)
