"""The release's own tests: its traits can be read, and its migrations are numbered without a gap."""

import unittest
from pathlib import Path

from deployments.local.service import Traits

HERE = Path(__file__).parent


class Release(unittest.TestCase):
    """Run by the stage's declared command `test`, in a clean checkout."""

    def test_its_traits_can_be_read(self) -> None:
        """A misspelt one would do nothing, in silence."""
        assert isinstance(Traits.of(HERE / "traits.json"), Traits)

    def test_its_migrations_are_numbered(self) -> None:
        """They run in the order of their names."""
        numbers = [int(file.name[:4]) for file in sorted((HERE / "migrations").glob("[0-9]*[!n].sql"))]
        assert numbers == list(range(1, len(numbers) + 1))


if __name__ == "__main__":
    unittest.main()
