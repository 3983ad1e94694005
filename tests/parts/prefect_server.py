"""A Prefect server for flows that run in the tests' own process."""

from collections.abc import Generator
from contextlib import contextmanager

from prefect.events.worker import EventsWorker
from prefect.testing.utilities import prefect_test_harness


@contextmanager
def prefect_server() -> Generator[None]:
    """Prefect's own harness; events for a server of earlier tests are left behind: this one's would wait for them."""
    EventsWorker.drain_all(timeout=0)
    with prefect_test_harness(server_startup_timeout=180):
        yield
