import re
from datetime import datetime, timedelta, timezone
from operator import truth
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.records import ID_ALPHABET, KINDS, Kind, Plan, backup_id, parse_id
from flows.verdict import Verdict
from tests.decide.builders import at, backup, proof


class Swap(Plan):
    loose: ClassVar[frozenset[str]] = frozenset({"seconds"})

    live: str
    new: str
    seconds: float = 0


def test_an_estimate_does_not_change_a_plans_digest() -> None:
    assert Swap(live="app", new="b", seconds=1).digest() == Swap(live="app", new="b", seconds=2).digest()


def test_what_a_plan_sets_changes_its_digest() -> None:
    assert Swap(live="app", new="b").digest() != Swap(live="app", new="c").digest()


def test_a_digest_is_the_same_in_every_process() -> None:
    assert Swap(live="앱", new="b").digest() == "913f028e822e0a5e5cc3c13273314001f9512304fd0e93081817e7bfbe07c68a"


def test_a_misspelt_loose_field_is_refused_when_the_plan_is_defined() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.loose names fields that it does not have: secnds"):
        type("Wrong", (Plan,), {"loose": frozenset({"secnds"}), "__module__": __name__})


def test_a_plan_can_not_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Swap(live="app", new="b").live = "other"


def test_a_backup_id_says_time_kind_and_six_characters() -> None:
    assert backup_id(at("2026-11-24T02:00"), "daily", "k3v9q2") == "20261124T020000Z-daily-k3v9q2"


def test_an_id_is_of_utc_whatever_the_zone() -> None:
    seoul = datetime(2026, 11, 24, 11, 0, tzinfo=timezone(timedelta(hours=9)))
    assert backup_id(seoul, "daily", "k3v9q2").startswith("20261124T020000Z")


@given(
    st.datetimes(at("2000-01-01").replace(tzinfo=None), at("2999-12-31").replace(tzinfo=None)),
    st.sampled_from(KINDS),
    st.text(ID_ALPHABET, min_size=6, max_size=6),
)
def test_an_id_is_read_back_as_it_was_made(time: datetime, kind: Kind, random: str) -> None:
    moment = time.replace(tzinfo=at("2026-01-01").tzinfo, microsecond=0)
    assert parse_id(backup_id(moment, kind, random)) == (moment, kind, random)


@pytest.mark.parametrize(
    "text",
    ["", "daily", "20261124T020000Z-hourly-k3v9q2", "20261399T020000Z-daily-k3v9q2", "20261124T020000Z-daily-k3v9q",
     "20261124T020000Z-daily-k3v9q2/", "../20261124T020000Z-daily-k3v9q2", "20261124T020000Z-daily-k3v9q2\n"],
)  # fmt: skip
def test_what_is_no_backup_id_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text)) + " is no backup id: "):
        parse_id(text)


def test_records_travel_as_json_and_come_back_equal() -> None:
    for record in (backup(seconds={"dump": 1.5}), proof("disproven")):
        assert type(record).model_validate_json(record.model_dump_json()) == record


def test_a_complete_backup_has_a_manifest() -> None:
    with pytest.raises(ValidationError, match="cannot be complete without"):
        backup(manifest_sha256=None)


def test_a_failed_backup_says_why() -> None:
    with pytest.raises(ValidationError, match="does not say why"):
        backup(state="failed")


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        backup(started=datetime(2026, 11, 24))  # noqa: DTZ001


def test_a_failed_backups_time_is_its_start_when_it_had_no_snapshot() -> None:
    failed = backup(state="failed", error="no", snapshot_at=None)
    assert failed.at == at("11-24 02:00")


def test_a_verdict_is_not_asked_for_its_own_truth() -> None:
    with pytest.raises(TypeError, match=r"ask verdict\.go"):
        truth(Verdict(go=False, reason="no"))
