from datetime import timedelta
from pathlib import Path

import pytest

from flows.records import KINDS
from flows.stage import STAGES, Stage, StageError
from flows.stage_errors import line_numbers

PRODUCTION = (STAGES / "production.toml").read_text(encoding="utf-8")
ALL = ["local", "production", "staging"]


def test_these_stages_exist() -> None:
    assert sorted(file.stem for file in STAGES.glob("*.toml")) == ALL


@pytest.mark.parametrize("name", ALL)
def test_every_stage_of_the_repository_is_readable(name: str) -> None:
    stage = Stage.named(name)
    assert stage.name == name
    assert stage.faults is (name == "local")
    assert all(stage.backup.policy(kind) for kind in KINDS)


def test_production_keeps_the_choices_of_the_original_design() -> None:
    stage = Stage.named("production")
    assert (stage.store.bucket, stage.store.sse) == ("ytshorts-backups", "AES256")
    assert (stage.store.storage_class, stage.store.frequent_storage_class) == ("STANDARD_IA", "STANDARD")
    assert (stage.objectives.rpo, stage.objectives.rto) == (timedelta(hours=1), timedelta(hours=4))
    kept = stage.retention
    assert (kept.daily, kept.weekly, kept.monthly) == (timedelta(7), timedelta(30), timedelta(365))
    assert [part.name for part in stage.parts] == ["backend", "frontend", "redis", "worker"]
    assert len(stage.environment.required) == 14


def test_the_session_rows_are_left_out_and_the_logs_are_not() -> None:
    assert Stage.named("production").database.exclude_data == ("public.sessions",)


def test_a_kind_that_the_policy_does_not_name_is_always_proven() -> None:
    assert Stage.named("staging").backup.policy("frequent") == "every"


def test_a_local_lease_is_short() -> None:
    assert Stage.named("local").ledger.lease == timedelta(seconds=3)


def faults(before: str, after: str) -> tuple[str, ...]:
    assert before in PRODUCTION
    with pytest.raises(StageError) as caught:
        Stage.parse(PRODUCTION.replace(before, after, 1), "production")
    return caught.value.sentences


def line_of(start: str) -> int:
    return next(number for number, line in enumerate(PRODUCTION.splitlines(), 1) if line.startswith(start))


@pytest.mark.parametrize(
    ("before", "after", "line", "sentence"),
    [
        ("exclude_data =", "exclude_dat =", "exclude_data",
         "[database] exclude_dat is not known; did you mean exclude_data?"),
        ('"60s"', "60", "lock_wait",
         '[database] lock_wait wants a duration such as "30s", "5m", "48h" or "7d", found 60'),
        ('"60s"', '"a minute"', "lock_wait",
         '[database] lock_wait wants a duration such as "30s", "5m", "48h" or "7d", found "a minute"'),
        ('rpo = "1h"', 'rpo = "0h"', "rpo", '[objectives] rpo wants more than 0, found "0h"'),
        ('lease = "30s"', 'lease = "0s"', "lease", '[ledger] lease wants more than 0, found "0s"'),
        ("workers = 2", "workers = true", "workers", "[backup] workers wants a whole number, found true"),
        ("workers = 2", "workers = 0", "workers", "[backup] workers wants 1 or more, found 0"),
        ("workers = 2", 'workers = "2"', "workers", '[backup] workers wants a whole number, found "2"'),
        ("keep_last = 3", "keep_last = 2.5", "keep_last", "[retention] keep_last wants a whole number, found 2.5"),
        ("max_drop_percent = 50", "max_drop_percent = 500", "max_drop_percent",
         "[retention] max_drop_percent wants 100 or less, found 500"),
        ('kind = "s3"', 'kind = "s4"', "kind", "[store] kind wants one of 's3' or 'directory', found \"s4\""),
        ('"refuse"', '"refused"', "when_busy",
         "[ledger] when_busy wants one of 'refuse' or 'wait', found \"refused\"; did you mean refuse?"),
        ('daily = "every"', 'daily = "every 3"', 'daily = "every"',
         '[backup.prove] daily wants every, "every 4th", weekly or never, found "every 3"'),
        ('["public.sessions"]', '"public.sessions"', "exclude_data",
         '[database] exclude_data wants a list in brackets, found "public.sessions"'),
        ('bucket = "ytshorts-backups"', "", "[store]", '[store] wants bucket, as its kind is "s3"'),
        ('image = "redis:7-alpine"', "", "[[parts]]", '[[parts]] 3 wants image, as its source is "image"'),
        ("replicas = 2", "replica = 2", "replicas", "[[parts]] 1 replica is not known; did you mean replicas?"),
        ("[objectives]", "[objective]", "[objectives]", "[objective] is not known; did you mean objectives?"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_line_and_what_was_wanted(before: str, after: str, line: str, sentence: str) -> None:
    number = line_of(line) if line != "[[parts]]" else PRODUCTION[: PRODUCTION.index('name = "redis"')].count("\n")
    assert f"production.toml line {number}: {sentence}" in faults(before, after)


def test_a_private_key_in_the_place_of_a_public_one_is_refused_and_not_shown() -> None:
    (sentence,) = faults("recipients = []", 'recipients = ["AGE-SECRET-KEY-1QQQQQQQQQQQQQ"]')
    assert f"line {line_of('recipients')}: [pinned_keys.recipients] item 1 wants a public age recipient" in sentence
    assert sentence.endswith("found a text of 29 characters")


def test_a_kind_that_does_not_exist_is_named_with_the_nearest() -> None:
    (sentence,) = faults('daily = "every"\n', 'dayly = "every"\n')
    assert sentence.startswith(
        f"production.toml line {line_of('daily =')}: [backup.prove] dayly wants one of 'frequent'"
    )
    assert sentence.endswith("did you mean daily?")


def test_a_missing_key_is_named_with_the_line_of_its_table() -> None:
    assert f"production.toml line {line_of('[objectives]')}: [objectives] rto is missing" in faults('rto = "4h"', "")


def test_a_missing_table_is_named() -> None:
    assert "production.toml: [objectives] is missing" in faults("[objectives]", "[objective]")


def test_a_grace_time_that_a_backup_may_outlive_is_refused() -> None:
    (sentence,) = faults('grace = "24h"', 'grace = "6h"')
    assert sentence == (
        "production.toml: retention.grace wants more than database.snapshot_limit (6h), found 6h: a prune would sweep"
        " objects of a backup that is still being taken"
    )


def test_all_faults_are_named_at_once_in_the_order_of_the_file() -> None:
    text = PRODUCTION.replace("workers = 2", "workers = 0").replace("exclude_data", "exclude_date")
    with pytest.raises(StageError) as caught:
        Stage.parse(text, "production")
    lines = [int(sentence.split(" line ")[1].split(":")[0]) for sentence in caught.value.sentences]
    assert len(lines) == 3
    assert lines == sorted(lines)


def test_text_that_is_no_toml_is_named_with_line_and_column() -> None:
    (sentence,) = faults("[database]", "[database")
    assert sentence.startswith(f"production.toml line {line_of('[database]')} is no TOML: expected ']'")


def test_a_text_that_ends_too_early_is_named() -> None:
    with pytest.raises(StageError, match=r"x\.toml is no TOML: invalid value \(at its end\)") as caught:
        Stage.parse("faults = ", "x")
    assert "\n" not in str(caught.value)


def test_a_stage_does_not_name_itself() -> None:
    assert faults("[service]", 'name = "x"\n[service]') == (
        "production.toml: name is not known: the stage is called as its file",
    )


def test_an_unknown_stage_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        StageError, match=r"no stage 'prodction': known are local, production, staging; did you mean prod"
    ):
        Stage.named("prodction")


def test_a_stage_name_is_never_a_path(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(PRODUCTION)
    folder = tmp_path / "stages"
    folder.mkdir()
    with pytest.raises(StageError, match="known are none"):
        Stage.named("../x", folder)


def test_a_secret_pasted_into_the_toml_is_not_shown() -> None:
    secret = "postgres://app:Korea!2026secret@db/app"
    for before, after in (('"60s"', f'"{secret}"'), ("workers = 2", f'workers = "{secret}"'), ('"s3"', f'"{secret}"')):
        assert secret not in "".join(faults(before, after))


def test_lines_of_quoted_dotted_and_repeated_keys_are_found() -> None:
    lines = line_numbers('a.b = 1\n["c d"]\n"e" = 2\n[[f]]\ng = 3\n[[f]]\ng = 4\n')
    assert lines[("a", "b")] == 1
    assert lines[("c d", "e")] == 3
    assert (lines[("f", 0, "g")], lines[("f", 1, "g")]) == (5, 7)
