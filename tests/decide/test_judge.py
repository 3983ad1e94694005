"""What a proof says of a backup that could not be brought back: only the backup's own fault disproves it."""

import pytest

from flows.prove.judge import disproven_by, other_major

RIGHT = "creating a schema: permission denied for database app (SQLSTATE 42501): grant it to this role"
TOOL = "pg_restore of pre-data failed: permission denied to create extension"
LOGIN = "entering app: no such role (SQLSTATE 28000): grant it to this role"


@pytest.mark.parametrize("sentence", [RIGHT, TOOL, LOGIN])
def test_a_scratch_that_lacks_rights_cannot_tell(sentence: str) -> None:
    outcome = disproven_by(sentence)
    assert (outcome.verdict, outcome.lacks) == ("unproven", (f"rights: {sentence}",))


def test_a_scratch_that_is_full_cannot_tell() -> None:
    assert disproven_by("writing: disk full (SQLSTATE 53100)").lacks == ("space: writing: disk full (SQLSTATE 53100)",)


@pytest.mark.parametrize(
    "sentence",
    [
        "pg_restore of post-data failed: out of memory",
        "pg_restore of pre-data failed: out of shared memory",
        "psql of post-data failed: could not fork worker process: Cannot allocate memory",
        "analyzing app: out of memory (SQLSTATE 53200)",
    ],
)
def test_a_scratch_without_memory_cannot_tell(sentence: str) -> None:
    outcome = disproven_by(sentence)
    assert (outcome.verdict, outcome.lacks) == ("unproven", (f"memory: {sentence}",))


def test_a_schema_that_does_not_load_disproves() -> None:
    assert disproven_by('pg_restore of pre-data failed: type "mood" does not exist').verdict == "disproven"


@pytest.mark.parametrize("found", [15, 18])
def test_a_scratch_of_another_major_cannot_tell(found: int) -> None:
    outcome = other_major(170010, found * 10000 + 3)
    assert outcome
    assert outcome.verdict == "unproven"
    assert outcome.lacks == (f"the right major: the backup is of Postgres 17, the scratch server is {found}",)
    assert other_major(170010, 170002) is None
