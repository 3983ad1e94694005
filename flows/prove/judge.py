"""Decides what a proof says: the comparison's differences in, proven, unproven or disproven out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flows.catalogue.manifest import ProofSeconds
from flows.records import MOST_DIFFERENCES, Difference, Ruling

RIGHTS = re.compile(r"SQLSTATE (28\w{3}|42501)|permission denied|must be (superuser|owner|member)")
FULL = ("No space left on device", "53100", "disk full")
MEMORY = re.compile(r"SQLSTATE 53200|out of (shared )?memory|Cannot allocate memory")


class Differs(Protocol):
    """A difference as the comparison gives it; grave ones make two databases unequal."""

    @property
    def what(self) -> str: ...  # noqa: D102
    @property
    def wanted(self) -> str: ...  # noqa: D102
    @property
    def found(self) -> str: ...  # noqa: D102
    @property
    def grave(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Outcome:
    """What a proof's paper says."""

    verdict: Ruling
    lacks: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    seconds: ProofSeconds = field(default_factory=lambda: ProofSeconds(download=0.0, load=0.0, compare=0.0))


def judge(
    differences: Sequence[Differs], lacks: Sequence[str], load: Mapping[str, float], compare: Mapping[str, float]
) -> Outcome:
    """Equal in all that counts: proven. A check that could not run here takes nothing from equal rows."""
    grave = [each for each in differences if each.grave]
    named = tuple(Difference(what=d.what, wanted=d.wanted, found=d.found) for d in grave[:MOST_DIFFERENCES])
    seconds = ProofSeconds(download=0.0, load=round(sum(load.values()), 3), compare=round(sum(compare.values()), 3))
    return Outcome("disproven" if grave else "proven", tuple(lacks), named, seconds)


def unproven(*lacks: str) -> Outcome:
    """The scratch can't tell: what it lacks is named, and nothing is said against the backup."""
    return Outcome("unproven", tuple(lacks))


def other_major(backup_num: int, scratch_num: int) -> Outcome | None:
    """A scratch of another major can't tell: an older one refuses the archive, a newer one shows the schema otherwise.

    Both are server_version_num; None where the majors are the same.
    """
    wanted, found = backup_num // 10000, scratch_num // 10000
    if wanted == found:
        return None
    return unproven(f"the right major: the backup is of Postgres {wanted}, the scratch server is {found}")


def disproven_by(sentence: str) -> Outcome:
    """It could not be brought back at all, unless it is the scratch that lacks room for it, memory or rights."""
    if any(word in sentence for word in FULL):
        return unproven(f"space: {sentence}")
    if MEMORY.search(sentence):
        return unproven(f"memory: {sentence}")
    if RIGHTS.search(sentence):
        return unproven(f"rights: {sentence}")
    return Outcome("disproven", differences=(Difference(what="restore", wanted="every object loads", found=sentence),))
