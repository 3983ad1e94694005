"""Fixtures of all rings: real local parts, each in its own module."""

pytest_plugins = ["tests.parts.postgres", "tests.parts.store"]
