from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flows.catalogue.grades import graded, last_proven
from flows.records import Proof, Ruling
from tests.decide.builders import at, backup, digest, proof

ASKED = {"proof_asked_at": at("11-24 02:05")}


def grade(*proofs: Proof, **more: Any) -> tuple[str, str]:
    found = graded(backup(**more), proofs)
    return found.grade, found.reason


def test_a_backup_without_a_proof_is_unproven() -> None:
    assert grade() == ("unproven", "unproven: no proof was asked for yet")


def test_one_whose_proof_was_asked_for_is_pending() -> None:
    assert grade(**ASKED) == ("pending", "a proof was asked for at 2026-11-24T02:05Z and is not through")


def test_a_proof_makes_it_proven() -> None:
    assert grade(proof("proven"), **ASKED) == ("proven", "proven at 2026-11-24T02:14Z on Postgres 17.10")


def test_a_proof_that_leaves_something_out_says_so() -> None:
    assert grade(proof("proven", exceptions=("order of public.logs",)))[1].endswith(", except: order of public.logs")


def test_a_disproof_names_the_first_difference() -> None:
    assert grade(proof("disproven")) == (
        "disproven",
        "disproven at 2026-11-24T02:14Z: public.videos wanted 140000 rows, found 139999 rows",
    )


def test_a_scratch_that_lacked_something_rules_nothing() -> None:
    assert grade(proof("unproven"), **ASKED) == ("unproven", "unproven: the scratch lacks pg_trgm")
    assert grade(proof("proven", "11-24 03:00"), proof("unproven", "11-24 04:00"))[0] == "proven"


def test_the_newest_ruling_counts() -> None:
    early, late = proof("proven", "11-24 03:00"), proof("disproven", "11-24 04:00")
    assert grade(late, early)[0] == "disproven"
    assert grade(proof("disproven", "11-24 03:00"), proof("proven", "11-24 04:00"))[0] == "proven"


def test_a_proven_one_stays_proven_while_it_is_proven_again() -> None:
    assert grade(proof("proven"), proof_asked_at=at("11-25 05:30"))[0] == "proven"


def test_a_proof_of_another_manifest_counts_for_nothing() -> None:
    assert grade(proof("proven", manifest_sha256=digest("forged")))[0] == "unproven"


def test_a_proof_of_another_backup_counts_for_nothing() -> None:
    assert grade(proof("proven", of="20261123T020000Z-daily-k3v9q2"))[0] == "unproven"


def test_a_proof_that_no_key_here_verifies_is_told_also_where_one_was_asked_for() -> None:
    told = "unproven: its proof can't be verified here, as PROOF_VERIFYING_KEYS is not set"
    for asked in (None, at("11-24 02:05")):
        found = graded(backup(proof_asked_at=asked), [], unverifiable=True)
        assert (found.grade, found.reason) == ("unproven", told)


def test_a_failed_backup_is_failed_whatever_proofs_say() -> None:
    assert grade(proof("proven"), state="failed", error="store full") == (
        "failed",
        "failed: store full",
    )


def test_disproven_and_failed_ones_say_since_when() -> None:
    assert graded(backup(), [proof("disproven")]).judged_at == at("11-24 02:14")
    assert graded(backup(state="failed", error="x"), []).judged_at == backup().finished


def test_the_last_proven_one_is_the_newest_by_snapshot() -> None:
    older, newer = backup("20261123T020000Z-daily-k3v9q2"), backup()
    proofs = [proof("proven", "11-24 09:00", of=older.id), proof("proven")]
    assert last_proven([newer, older], proofs) == newer.id
    assert last_proven([newer, older], []) is None


@given(
    st.permutations(range(6)), st.lists(st.sampled_from(("proven", "unproven", "disproven")), min_size=6, max_size=6)
)
def test_the_order_of_the_proofs_does_not_matter(order: list[int], verdicts: list[Ruling]) -> None:
    proofs = [proof(verdict, f"11-24 1{hour}:00") for hour, verdict in enumerate(verdicts)]
    assert grade(*(proofs[place] for place in order)) == grade(*proofs)
