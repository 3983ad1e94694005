"""Whatever a process was at when it died, and whoever came next: all of it was done, or nothing."""

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from tests.parts import random_deaths
from tests.parts.ledger import ledger_database
from tests.parts.nursery import Nursery
from tests.parts.toys import ToyPlan


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    yield from ledger_database(postgres17)


@pytest.fixture(scope="module")
def nursery() -> Generator[Nursery]:
    with Nursery("tests.parts.toys") as made:
        yield made


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)
@given(plan=random_deaths.plans(), deaths=random_deaths.deaths())
def test_every_plan_ends_as_wanted_or_as_before(
    nursery: Nursery, address: Address, plan: ToyPlan, deaths: list[random_deaths.Death]
) -> None:
    random_deaths.check(nursery, address, plan, deaths)
