"""The answer that every decision gives: whether to go on, and the sentence that says why. It never acts."""

from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Verdict:
    """A decision: `go` or not, one sentence, and the observations it rests on."""

    go: bool
    reason: str
    evidence: tuple[str, ...] = ()

    def __bool__(self) -> NoReturn:
        """Refuse to be asked as a whole: `if verdict` would be true of a refusal as well."""
        raise TypeError("a verdict has no truth of its own: ask verdict.go")
