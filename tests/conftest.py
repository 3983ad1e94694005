"""Fixtures of all rings: real local parts, each in its own module. Prefect hears of its home before it is imported."""

import gc
import os
import tempfile

QUIET = {
    "PREFECT_HOME": os.path.join(tempfile.gettempdir(), f"shipkeeper-tests-{os.geteuid()}"),  # noqa: PTH118 - before imports
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}
for name, value in QUIET.items():
    os.environ.setdefault(name, value)

pytest_plugins = ["tests.parts.pooler", "tests.parts.postgres", "tests.parts.store", "tests.parts.traffic"]


def pytest_collection_finish() -> None:
    """What is loaded now stays: no collector, least of all that of a fork, goes through it again."""
    gc.collect()
    gc.freeze()
