"""An approval counts for the live database and the plan that were shown, and for nothing else."""

import hashlib

import pytest

from flows.approval import approves, in_form

SHOWN, CHANGED = (hashlib.sha256(text).hexdigest() for text in (b"shown", b"changed"))


def test_the_plan_and_the_database_that_were_shown_are_approved() -> None:
    assert approves("app", in_form(SHOWN), database="app", digest=SHOWN).go


@pytest.mark.parametrize("named", ["", "App", "app ", "app_restore_k3v9q2"])
def test_another_name_approves_nothing(named: str) -> None:
    verdict = approves(named, in_form(SHOWN), database="app", digest=SHOWN)
    assert (verdict.go, verdict.reason) == (
        False,
        f"the approval names {named!r}, the live database is 'app': nothing was changed",
    )


@pytest.mark.parametrize("shown", ["", SHOWN[:8], SHOWN, in_form(CHANGED)])
def test_the_digest_of_another_plan_or_a_piece_of_one_approves_nothing(shown: str) -> None:
    verdict = approves("app", shown, database="app", digest=SHOWN)
    assert (verdict.go, verdict.reason) == (
        False,
        "the world changed between the plan and its approval: nothing was changed; look at the new plan",
    )
