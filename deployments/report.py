"""What apply tells: a line for everything it looked at, and at the end one sentence."""

from collections.abc import Callable


class Report:
    """Lines of a verb and a thing; counts what changed."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """With `say`, which gets each line."""
        self._say = say
        self.changes = 0
        self.orphans = 0

    def changed(self, verb: str, what: str) -> None:
        """Something on the server is now otherwise."""
        self.changes += 1
        self._say(f"{verb:<10}{what}")

    def same(self, what: str) -> None:
        """It was as the repository says."""
        self._say(f"{'unchanged':<10}{what}")

    def kept(self, what: str) -> None:
        """It was left as it is, for the reason in the line."""
        self._say(f"{'kept':<10}{what}")

    def warn(self, what: str) -> None:
        """Somebody should know."""
        self._say(f"{'warning':<10}{what}")

    def orphan(self, what: str, why: str = "the repository no longer names it") -> None:
        """It is there, and nothing asks for it any more; only --prune removes it."""
        self.orphans += 1
        self._say(f"{'orphan':<10}{what}: {why}; --prune removes it")

    def close(self, what: str) -> None:
        """The sentence at the end."""
        left = f", {self.orphans} orphaned" if self.orphans else ""
        self._say(f"{what}: {f'{self.changes} changed' if self.changes else 'nothing changed'}{left}")
