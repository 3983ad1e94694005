"""check and keys: what can be known without a Prefect server, and what a new set of keys is for."""

import re
import stat
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import Refused
from blocks.keys import RestoreKey, new_keys
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.storage.objects import S3Place
from deployments.__main__ import main, parser
from deployments.check import Finding, findings
from deployments.keyring import make_keys
from flows.stage import Stage
from tests.parts.environment import deployer, identity_file, store_variables, url_of
from tests.parts.store import READER

STAGE = """
[service]
name = "sample"
[database]
name = "{database}"
[objectives]
rpo = "1h"
rto = "4h"
[store]
kind = "directory"
folder = "{folder}"
"""


@pytest.fixture
def stage(database: Address, tmp_path: Path) -> Stage:
    (tmp_path / "store").mkdir()
    return Stage.parse(STAGE.format(database=database.database, folder=tmp_path / "store"), "local")


@pytest.fixture
def environ(database: Address, tmp_path: Path) -> dict[str, str]:
    new = new_keys()
    return deployer(database, database.at("postgres"), new, identity_file(tmp_path, new))


def told(stage: Stage, environ: dict[str, str], verdict: str) -> list[str]:
    return [each.sentence for each in findings(stage, environ) if each.verdict == verdict]


def test_a_sound_stage_has_no_problem_and_names_the_tools(stage: Stage, environ: dict[str, str]) -> None:
    assert told(stage, environ, "problem") == []
    ok = told(stage, environ, "ok")
    assert any(re.search(r"Postgres 17\.\d+, dumped with pg_dump 17 of /", each) for each in ok)
    assert any(re.fullmatch(r"a backup would take 0 tables, .*, and nothing stands in its way", each) for each in ok)


@pytest.fixture
def plain(database: Address, environ: dict[str, str]) -> Generator[None]:
    """The deployer's role owns the database's tables but one, and may not create databases."""
    with database.connect() as connection:
        connection.execute("drop role if exists keeper; create role keeper login password 'keeper-canary'")
        connection.execute("create table public.t (id int); alter table public.t owner to keeper")
        connection.execute("create table public.hidden (id int)")
    environ["DATABASE_URL"] = url_of(replace(database, user="keeper", password="keeper-canary"))
    yield
    with database.connect() as connection:
        connection.execute("drop owned by keeper; drop role keeper")


@pytest.mark.usefixtures("plain")
def test_a_table_that_the_role_may_not_read_is_a_problem_until_it_is_granted_or_left_out(
    stage: Stage, environ: dict[str, str], database: Address
) -> None:
    (problem,) = told(stage, environ, "problem")
    assert problem.startswith("a backup refuses: the backup's role lacks select on public.hidden: grant it that")
    assert not any("nothing stands in its way" in each for each in told(stage, environ, "ok"))
    assert told(ruled(stage, exclude_data=("public.hidden",)), environ, "problem") == []
    with database.connect() as connection:
        connection.execute("grant pg_read_all_data to keeper")
    assert told(stage, environ, "problem") == []


@pytest.mark.usefixtures("plain")
def test_a_role_that_could_not_restore_is_a_note(stage: Stage, environ: dict[str, str], database: Address) -> None:
    assert any(each.endswith("to restore here, grant it CREATEDB") for each in told(stage, environ, "note"))
    with database.connect() as connection:
        connection.execute("alter role keeper createdb")
    assert not any("CREATEDB" in each for each in told(stage, environ, "note"))


@pytest.mark.parametrize("rule", [{"exclude_data": ("public.gone",)}, {"exclude_schemas": ("gone",)}])
def test_a_rule_that_matches_nothing_is_a_problem(
    stage: Stage, environ: dict[str, str], rule: dict[str, tuple[str, ...]]
) -> None:
    (problem,) = told(ruled(stage, **rule), environ, "problem")
    assert re.match(r"exclude_\w+ names '(public\.)?gone', but no (table|schema) matches it", problem)


def test_what_hangs_on_a_left_out_schema_is_a_note(stage: Stage, environ: dict[str, str], database: Address) -> None:
    with database.connect() as connection:
        connection.execute("create schema auth create table users (id int)")
        connection.execute("create view public.v as select * from auth.users")
    noted = told(ruled(stage, exclude_schemas=("auth",)), environ, "note")
    assert any(each.startswith("of a backup: on schema auth, which is left out, hang view public.v") for each in noted)


def ruled(stage: Stage, **rules: tuple[str, ...]) -> Stage:
    """The stage with other rules in its TOML."""
    return stage.model_copy(update={"database": stage.database.model_copy(update=rules)})


def test_another_database_than_the_toml_names_is_a_problem(stage: Stage, environ: dict[str, str]) -> None:
    other = stage.model_copy(update={"database": stage.database.model_copy(update={"name": "app"})})
    (problem,) = told(other, environ, "problem")
    assert problem.startswith(f"the stage's database is {stage.database.name!r} by its block and 'app' by local.toml")


def test_a_ledger_in_the_services_own_database_is_a_problem(stage: Stage, environ: dict[str, str]) -> None:
    environ["LEDGER_URL"] = environ["DATABASE_URL"]
    assert any(
        each.startswith("LEDGER_URL names the service's own database") for each in told(stage, environ, "problem")
    )


def test_an_address_that_cannot_be_read_is_told_and_ends_no_check(stage: Stage, environ: dict[str, str]) -> None:
    environ["DATABASE_URL"] = "nonsense"
    said = [each.sentence for each in findings(stage, environ)]
    assert any("the database's URL cannot be read" in each for each in said)
    assert any("RPO" in each for each in said)  # what comes after it is looked at, too


def test_a_worker_of_a_queue_that_nothing_uses_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--stage", "production", "--queue", "restor"]) == 1
    said = "no deployment of production lies on queue 'restor': there are default, restore"
    assert capsys.readouterr().err.strip() == said


def test_the_tools_must_fit_the_database_and_not_the_ledger(
    stage: Stage, environ: dict[str, str], tmp_path: Path
) -> None:
    for name in ("pg_dump", "pg_restore", "psql"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'x (PostgreSQL) 16.1'\n")
        (tmp_path / name).chmod(0o755)
    old = stage.model_copy(update={"database": stage.database.model_copy(update={"tools": str(tmp_path)})})
    problems = told(old, environ, "problem")
    assert any(each.startswith("Postgres Server local: server is 17, the newest pg_dump") for each in problems)
    assert not [each for each in problems if "local-ledger" in each]
    (ledger,) = [each for each in told(old, environ, "ok") if "local-ledger" in each]
    assert re.search(r"answers as \w+ without TLS: Postgres 17\.\d+\.$", ledger)


def test_a_scratch_server_of_another_major_is_a_problem(
    stage: Stage, environ: dict[str, str], postgres15: Cluster
) -> None:
    environ["SCRATCH_URL"] = url_of(postgres15.address())
    (problem,) = told(stage, environ, "problem")
    assert problem.endswith("the backup is of Postgres 17, the scratch server is 15")


def test_a_store_is_asked_for_its_own_part_only(environ: dict[str, str], place: S3Place) -> None:
    store = f'[store]\nbucket = "{place.bucket}"\nprefix = "{place.prefix}"\nregion = "us-east-1"\n'
    stage = Stage.parse(STAGE.partition("[store]")[0] + store, "local")
    environ |= {
        "AWS_ENDPOINT_URL": str(place.endpoint),
        "READING_AWS_ACCESS_KEY_ID": READER.access_key,
        "READING_AWS_SECRET_ACCESS_KEY": READER.secret_key,
    }
    reading = [each for each in findings(stage, environ) if "local-reading" in each.sentence]
    assert [each.verdict for each in reading] == ["ok"], reading
    assert "lets the reader do its part" in reading[0].sentence


def test_a_writer_that_reads_and_prunes_too_must_be_allowed_to(environ: dict[str, str], place: S3Place) -> None:
    store = f'[store]\nbucket = "{place.bucket}"\nprefix = "{place.prefix}"\nregion = "us-east-1"\n'
    stage = Stage.parse(STAGE.partition("[store]")[0] + store, "local")
    environ |= {"AWS_ENDPOINT_URL": str(place.endpoint)}
    environ |= {"AWS_ACCESS_KEY_ID": READER.access_key, "AWS_SECRET_ACCESS_KEY": READER.secret_key}
    problems = told(stage, environ, "problem")
    assert any(each.startswith("no pruning credentials are set, so the Backup Store local does") for each in problems)
    assert not any(each.startswith("no reading credentials") for each in problems)


def test_a_store_that_lets_nobody_in_is_told_once(environ: dict[str, str], place: S3Place) -> None:
    environ |= store_variables(replace(place, secret_key="another-canary-secret"))
    stage = Stage.parse(f"{STAGE.partition('[store]')[0]}[store]\nbucket = 'b'\nregion = 'us-east-1'\n", "local")
    (problem,) = [each for each in told(stage, environ, "problem") if "Backup Store" in each]
    assert problem.startswith("Backup Store local: ")


def test_a_pruner_that_may_not_delete_is_a_problem(environ: dict[str, str], place: S3Place) -> None:
    store = f'[store]\nbucket = "{place.bucket}"\nprefix = "{place.prefix}"\nregion = "us-east-1"\n'
    stage = Stage.parse(STAGE.partition("[store]")[0] + store, "local")
    environ |= {
        "AWS_ENDPOINT_URL": str(place.endpoint),
        "PRUNING_AWS_ACCESS_KEY_ID": READER.access_key,
        "PRUNING_AWS_SECRET_ACCESS_KEY": READER.secret_key,
    }
    (pruning,) = [each for each in findings(stage, environ) if "local-pruning" in each.sentence]
    assert pruning.verdict == "problem"
    assert "grant them s3:DeleteObject here" in pruning.sentence
    assert READER.secret_key not in pruning.sentence


def test_a_secret_too_short_to_be_hidden_is_named(environ: dict[str, str]) -> None:
    stage = Stage.parse(f"{STAGE.partition('[store]')[0]}[store]\nbucket = 'b'\nregion = 'us-east-1'\n", "local")
    environ |= {"READING_AWS_ACCESS_KEY_ID": "reader", "READING_AWS_SECRET_ACCESS_KEY": "abc"}
    (reading,) = [each for each in told(stage, environ, "problem") if "local-reading" in each]
    assert "aws_secret_access_key of the AWS Credentials block: A secret of fewer than 6 characters" in reading


def test_a_ledger_that_was_never_made_is_told_in_words(stage: Stage, environ: dict[str, str]) -> None:
    (note,) = [each for each in told(stage, environ, "note") if "how long backups take" in each]
    assert re.search(r"the ledger .* is at version 0, \d is needed: apply the stage$", note)


def test_a_host_with_both_keys_is_told_what_that_costs(stage: Stage, environ: dict[str, str]) -> None:
    assert any("give queue restore a host of its own" in each for each in told(stage, environ, "note"))
    del environ["BACKUP_SIGNING_KEY"]
    assert not any("give queue restore a host of its own" in each for each in told(stage, environ, "note"))


def test_an_identity_that_is_on_another_host_is_no_problem(stage: Stage, environ: dict[str, str]) -> None:
    environ["RESTORE_IDENTITY_FILE"] = "/nowhere/identity"
    assert told(stage, environ, "problem") == []
    assert any("/nowhere/identity is not on this host" in each for each in told(stage, environ, "note"))


def test_one_recipient_alone_is_warned_of(stage: Stage, environ: dict[str, str]) -> None:
    environ["BACKUP_RECIPIENTS"] = environ["BACKUP_RECIPIENTS"].split(",")[0]
    assert any(each.startswith("one recipient alone") for each in told(stage, environ, "note"))


def test_keys_that_the_toml_pins_otherwise_are_a_problem(stage: Stage, environ: dict[str, str]) -> None:
    pinned = Stage.parse(
        STAGE.format(database=stage.database.name, folder=stage.store.folder)
        + f'[pinned_keys]\nrecipients = ["{new_keys().team_recipient}"]',
        "local",
    )
    assert any(
        "recipients of the BackupKeys block and of local.toml differ" in each
        for each in told(pinned, environ, "problem")
    )


def test_what_is_not_set_and_what_does_not_answer_are_problems_each_by_name(
    stage: Stage, environ: dict[str, str]
) -> None:
    del environ["PROOF_SIGNING_KEY"]
    environ["DATABASE_URL"] = "postgresql://app:canary-word@127.0.0.1:1/app"
    found = told(stage, environ, "problem")
    assert "Backup Keys local-proof: PROOF_SIGNING_KEY not set here" in found
    assert any("127.0.0.1:1" in each for each in found)
    assert "canary-word" not in "\n".join(found)


def test_keys_of_the_wrong_role_are_a_problem(stage: Stage, environ: dict[str, str]) -> None:
    backup, proof = environ["BACKUP_SIGNING_KEY"], environ["PROOF_SIGNING_KEY"]
    mixed = told(stage, environ | {"BACKUP_SIGNING_KEY": proof, "PROOF_SIGNING_KEY": backup}, "problem")
    assert [line for line in mixed if line.startswith("Backup Keys local:") and "is trusted for proofs" in line]
    assert [line for line in mixed if line.startswith("Backup Keys local-proof:") and "is trusted for backups" in line]
    one_for_all = f"{environ['BACKUP_VERIFYING_KEYS']},{environ['PROOF_VERIFYING_KEYS']}"
    both = told(stage, environ | {"BACKUP_VERIFYING_KEYS": one_for_all}, "problem")
    assert [line for line in both if "trusted for backups and for proofs" in line]


def test_a_finding_is_a_value() -> None:
    assert Finding("ok", "well") == Finding("ok", "well")


@pytest.mark.parametrize("command", ["check", "apply"])
def test_an_unknown_stage_is_one_sentence_and_a_failure(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--stage", "prodution"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no stage 'prodution'" in said.err
    assert "production" in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_a_parameter_is_json_or_else_text() -> None:
    given = parser().parse_args(
        ["run", "restore", "--stage", "local", "--param", "which=latest-proven", "--param", "n=2", "--dry-run"]
    )
    assert dict(given.param) == {"which": "latest-proven", "n": 2}
    assert given.dry_run


def test_help_needs_no_prefect() -> None:
    asked = (
        "import sys; from deployments.__main__ import parser; parser().format_help(); print('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_new_keys_are_printed_with_the_place_of_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["keys", "new"]) == 0
    text = capsys.readouterr().out
    assert text.count("AGE-SECRET-KEY-1") == 2
    assert all(
        word in text
        for word in (
            "RESTORE_IDENTITY_FILE",
            "BACKUP_RECIPIENTS=age1",
            "BACKUP_VERIFYING_KEYS=",
            "PROOF_VERIFYING_KEYS=",
            "PROOF_SIGNING_KEY=",
            "[pinned_keys]",
        )
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_to_belong_into_the_toml_is_taken_there(tmp_path: Path) -> None:
    said: list[str] = []
    make_keys(None, said.append)
    pinned = Stage.parse(STAGE.format(database="app", folder=tmp_path) + said[-1], "lab").pinned_keys
    assert [*map(len, (pinned.recipients, pinned.verifying_keys, pinned.proof_verifying_keys))] == [2, 1, 1]


def test_keys_in_a_folder_are_for_the_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    said: list[str] = []
    make_keys(tmp_path / "keys", said.append)
    files = sorted((tmp_path / "keys").iterdir())
    assert [(each.name, stat.S_IMODE(each.stat().st_mode)) for each in files] == [
        ("escrow-identity.txt", 0o600),
        ("keys.env", 0o600),
        ("team-identity.txt", 0o600),
    ]
    assert "SECRET" not in "\n".join(said)
    assert "opens what is encrypted to" in RestoreKey(identity_file=str(files[2])).check()
    with pytest.raises(Refused, match=r"holds keys\.env, team-identity\.txt, escrow-identity\.txt already"):
        make_keys(tmp_path / "keys", said.append)
