"""Visitors while releases come, go and are taken back and the balancer reloads: none fails, no POST is executed twice.

10 000 requests here, 100 000 and more in tests/bench.
"""

from collections.abc import Generator

import pytest

from tests.flows.conftest import stage
from tests.parts.lane import Lane, live_through, open_lane
from tests.parts.scene import Scene

__all__ = ["stage"]  # a fixture
pytestmark = pytest.mark.timeout(600)
REQUESTS = 10_000


@pytest.fixture(scope="module")
def service(stage: Scene, tmp_path_factory: pytest.TempPathFactory) -> Generator[Lane]:
    with open_lane(stage, tmp_path_factory.mktemp("load"), clients=6, pause_s=0.02) as made:
        made.bakes(2)
        yield made


def test_no_request_fails_and_no_post_is_executed_twice(service: Lane) -> None:
    bad = set[str]()
    while not bad or len(service.visitors.answers()) < REQUESTS:
        bad.add(live_through(service))
    assert service.wrong_for_visitors(bad) == []
