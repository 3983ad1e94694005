"""What a backup is worth: proven, unproven, pending, disproven or failed, each with the sentence that says why.

The newest proof that says proven or disproven rules. A proof that could not tell (`unproven`: the scratch lacks
something) rules nothing, and a proof of another manifest than the backup's counts for nothing. The caller hands over
only proofs whose signature was verified, and says where it could verify none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from flows.records import Backup, Grade, Kind, Proof

USABLE: frozenset[Grade] = frozenset({"proven", "unproven", "pending"})  # complete, and not known to be wrong


@dataclass(frozen=True)
class Graded:
    """A backup as retention and choice see it. `at` is the snapshot's time, or the start of one that failed."""

    id: str
    at: datetime
    kind: Kind
    grade: Grade
    reason: str = ""
    judged_at: datetime | None = None  # when it was found disproven, or failed
    held: bool = False  # a person said that it stays
    locked_until: datetime | None = None  # the store refuses to delete it before
    rows: int = 0
    stored_bytes: int = 0

    @property
    def usable(self) -> bool:
        """Whether it is complete and not known to be wrong."""
        return self.grade in USABLE


def graded(
    backup: Backup,
    proofs: Iterable[Proof],
    *,
    unverifiable: bool = False,
    held: bool = False,
    locked_until: datetime | None = None,
) -> Graded:
    """The backup with its grade; `proofs` may hold those of other backups too.

    `unverifiable`: a proof lies beside it, and no key here verifies proofs; it may say disproven.
    """
    grade, reason, judged_at = _judge(backup, [proof for proof in proofs if _is_of(proof, backup)], unverifiable)
    return Graded(
        id=backup.id,
        at=backup.at,
        kind=backup.kind,
        grade=grade,
        reason=reason,
        judged_at=judged_at,
        held=held,
        locked_until=locked_until,
        rows=backup.rows,
        stored_bytes=backup.stored_bytes,
    )


def last_proven(backups: Iterable[Backup], proofs: Sequence[Proof]) -> str | None:
    """The id of the newest proven backup; None when there is none."""
    proven = [each for each in (graded(backup, proofs) for backup in backups) if each.grade == "proven"]
    return max(proven, key=lambda each: (each.at, each.id)).id if proven else None


def _is_of(proof: Proof, backup: Backup) -> bool:
    return proof.backup == backup.id and proof.manifest_sha256 == backup.manifest_sha256


def _judge(backup: Backup, proofs: Sequence[Proof], unverifiable: bool) -> tuple[Grade, str, datetime | None]:
    if backup.state == "failed":
        return "failed", f"failed: {backup.error}", backup.finished or backup.started
    newest_first = sorted(proofs, key=lambda proof: proof.at, reverse=True)
    for proof in newest_first:
        if proof.verdict == "proven":
            return "proven", _proven(proof), None
        if proof.verdict == "disproven":
            return "disproven", _disproven(proof), proof.at
    grade, reason = _not_ruled(backup, newest_first, unverifiable)
    return grade, reason, None


def _not_ruled(backup: Backup, newest_first: Sequence[Proof], unverifiable: bool) -> tuple[Grade, str]:
    if unverifiable:
        return "unproven", "unproven: its proof can't be verified here, as PROOF_VERIFYING_KEYS is not set"
    asked = backup.proof_asked_at
    if asked and not any(proof.at >= asked for proof in newest_first):
        return "pending", f"a proof was asked for at {_moment(asked)} and is not through"
    if newest_first:
        return "unproven", f"unproven: the scratch lacks {', '.join(newest_first[0].lacks)}"
    return "unproven", "unproven: no proof was asked for yet"


def _proven(proof: Proof) -> str:
    exceptions = f", except: {', '.join(proof.exceptions)}" if proof.exceptions else ""
    return f"proven at {_moment(proof.at)} on Postgres {proof.server_version}{exceptions}"


def _disproven(proof: Proof) -> str:
    if not proof.differences:
        return f"disproven at {_moment(proof.at)}"
    first, *others = proof.differences
    more = f", and {len(others)} more" if others else ""
    return f"disproven at {_moment(proof.at)}: {first.what} wanted {first.wanted}, found {first.found}{more}"


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%MZ}"
