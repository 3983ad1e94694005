"""Releases of a real service behind a real balancer: kept or taken back, without one request failed by the switch."""

import json
import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blocks.errors import Unreachable
from blocks.postgres.address import Address
from flows import people
from flows.bake.flow import bake
from flows.bake.tasks import replay
from flows.deploy.flow import deploy, history
from flows.effect import NotDone
from flows.rollback.flow import rollback
from tests.parts.rollout import Rollout, failures, git, rollout
from tests.parts.scene import Scene

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def empty(stage: Scene, tmp_path_factory: pytest.TempPathFactory) -> Generator[Rollout]:
    with rollout(stage, tmp_path_factory.mktemp("rollout")) as made:
        yield made


@pytest.fixture(scope="module")
def lab(empty: Rollout) -> Rollout:
    """With a first release that serves."""
    deploy("test")
    return empty


@pytest.fixture
def visitors(lab: Rollout) -> Generator[Path]:
    """Enough of them for a baseline, before the test begins."""
    with lab.visited() as log:
        time.sleep(4)  # 160 requests: what a baseline is made of is traffic over time
        yield log


@contextmanager
def closed(address: Address) -> Generator[None]:
    """A database that lets nobody in."""
    change = f"alter database {address.database} allow_connections "
    with address.at("postgres").connect() as connection:
        connection.execute((change + "false").encode())
        try:
            yield
        finally:
            connection.execute((change + "true").encode())


def ask_until_silent(lab: Rollout) -> None:
    """Until the counter's last beat is old enough to be missed."""
    while lab.world.counter.check():
        time.sleep(0.2)


def test_the_first_release_is_kept_with_a_warning(empty: Rollout, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    head = empty.repository.head()
    assert empty.serves() == ""

    said = deploy("test", head[:10])

    assert "KEPT" in said
    assert "first release" in said
    assert empty.serves() == head
    assert empty.newest.state == "done"
    assert "nothing serves yet: the first release has nothing to go back to" in caplog.text


def test_a_good_release_goes_live_and_nobody_notices(lab: Rollout, visitors: Path) -> None:
    before, head = lab.serves(), lab.repository.release("feat: a better list", {})

    assert "KEPT" in deploy("test")

    assert lab.serves() == head
    assert failures(visitors) == []
    assert set(lab.runs().values()) == {before, head}  # the one before is kept: the way back
    assert sorted(lab.world.traffic.shares().values()) == [0, 100]


def test_a_release_with_errors_is_taken_back_by_evidence_and_quarantined(lab: Rollout, visitors: Path) -> None:
    before, bad = lab.serves(), lab.repository.release("feat: a fault", {"errors": 0.4, "errors_after": 30})

    with pytest.raises(NotDone, match=r"ROLLED BACK .* after go-live: errors \d+ of \d+ .* serves again"):
        deploy("test")

    assert lab.serves() == before
    assert bad not in lab.runs().values()
    told = lab.newest
    assert (told.state, told.release.commit) == ("undone", bad)
    assert "answered 500" in visitors.read_text()
    assert not [line for line in failures(visitors) if "answered 500" not in line]  # none by a switch
    first, again = (replay(lab.world, told.release) for _ in range(2))
    assert first == again
    assert first.state == "rollback"
    with pytest.raises(NotDone, match="is in quarantine"):
        deploy("test", bad)


def test_a_release_that_fails_its_smoke_tests_never_gets_traffic(lab: Rollout, visitors: Path) -> None:
    before, empty = lab.serves(), lab.repository.release("feat: an empty list", {"empty": True})
    with pytest.raises(NotDone, match="gets no traffic: its smoke tests failed: the trending list is empty"):
        deploy("test")
    assert lab.serves() == before
    assert empty not in lab.runs().values()
    assert lab.newest.live_at is None
    assert failures(visitors) == []


def test_a_release_that_dies_in_its_bake_is_seen_and_taken_back(lab: Rollout, visitors: Path) -> None:
    before = lab.serves()
    lab.repository.release("feat: a leak", {"dies_after": 60})
    lab.toml('minimum = "3s"\nmaximum = "5s"', 'minimum = "20s"\nmaximum = "30s"')
    try:
        with pytest.raises(NotDone, match="ROLLED BACK"):
            deploy("test")
    finally:
        lab.toml()
    assert lab.serves() == before
    assert visitors.read_text()


def test_a_release_that_does_not_start_never_gets_traffic(lab: Rollout) -> None:
    before = lab.serves()
    lab.repository.release("feat: a typing mistake", {"erors": 0.1})
    lab.toml('commands = { test = "python -m unittest --quiet" }', "")
    try:
        with pytest.raises(NotDone, match=r"ended while it was starting: .*erors"):
            deploy("test")
    finally:
        lab.toml()
        lab.repository.release("fix: the typing mistake", {})
    assert lab.serves() == before


def test_every_gate_that_refuses_is_named_and_secrets_are_not(lab: Rollout, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    commands = 'leak = "sh -c \'echo it is ${DATABASE_URL:-nothing}; exit 3\'", hangs = "sleep 60"'
    lab.toml(
        'commands = { test = "python -m unittest --quiet" }\ncommand_limit = "30s"',
        f'commands = {{ {commands} }}\ncommand_limit = "1s"',
    )
    lab.also('listing = "python migrate.py list"', """listing = "sh -c 'echo $DATABASE_URL; exit 4'\"""")
    try:
        with pytest.raises(NotDone, match="was not deployed") as refused:
            deploy("test")
    finally:
        lab.toml()
    assert "leak: exit code 3: it is nothing" in str(refused.value)  # only migrations and smoke tests get secrets
    assert "migrations: the listing of the migrations failed with exit code 4: [REDACTED]" in str(refused.value)
    assert "hangs: sleep 60 was ended after 1.0 s (release.command_limit), it said: it said nothing" in str(
        refused.value
    )
    for secret in (lab.scene.database.password, lab.environ["SERVICE_DATABASE_URL"]):
        assert not secret or secret not in str(refused.value) + caplog.text


def test_a_commit_that_is_not_there_or_not_on_the_branch_is_refused(lab: Rollout) -> None:
    with pytest.raises(NotDone, match="nothing was deployed: "):
        deploy("test", "0" * 40)
    lab.toml('platform = "processes"', 'platform = "processes"\nbranch = "release"')
    try:
        with pytest.raises(NotDone, match=r"branch: .*release"):
            deploy("test", lab.repository.head())
    finally:
        lab.toml()


def test_gates_of_every_kind_refuse_at_once_each_with_its_reason(lab: Rollout) -> None:
    """A commit beside the branch, in a freeze, without a variable, with a bad dependency, and no program that tests."""
    before, count = lab.serves(), len(lab.world.ledger.history())
    git(lab.repository, "checkout", "--quiet", "-b", "aside")
    report = {"vulnerabilities": {"left-pad": {"severity": "high"}}}
    lab.repository.release("feat: not merged", {}, {"audit.json": json.dumps(report)})
    aside = git(lab.repository, "rev-parse", "HEAD").strip()
    git(lab.repository, "checkout", "--quiet", "main")
    freeze = '[[release.freezes]]\nbegins = 2020-01-01T00:00:00Z\nends = 2099-01-01T00:00:00Z\nreason = "Chuseok"\n'
    audit = """[release.audit]\ncommand = "sh -c 'echo npm warn >&2; cat audit.json'"\n"""
    lab.toml("[release.migrations]", f"{freeze}{audit}[release.migrations]")
    lab.also('required = ["DATABASE_URL"]', 'required = ["DATABASE_URL", "JWT_SECRET"]')
    lab.also('test = "python -m unittest --quiet"', 'test = "no-such-program"')
    try:
        with pytest.raises(NotDone, match="was not deployed") as refused:
            deploy("test", aside)
    finally:
        lab.toml()
    for said in (
        f"branch: {aside[:8]} is not reachable from main: merge it first, or deploy another",
        "environment: JWT_SECRET not set",
        "freeze: deploys are frozen until 2099-01-01 00:00:00 UTC: Chuseok",
        "audit: 1 high (left-pad)",
        "test: 'no-such-program' cannot be run: there is no program 'no-such-program' here",
    ):
        assert said in str(refused.value)
    assert (lab.serves(), len(lab.world.ledger.history())) == (before, count)


def test_without_the_backup_before_it_nothing_is_deployed(lab: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    before, count = lab.serves(), len(lab.world.ledger.releases.all())
    lab.repository.release("feat: not without a backup", {})
    lab.toml("proven_backup = false", "proven_backup = true")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no longer the right one")
    try:
        with pytest.raises(NotDone, match=r"(?i)store|access|signature"):
            deploy("test")
    finally:
        lab.toml()
    assert (lab.serves(), len(lab.world.ledger.releases.all())) == (before, count)


def interrupt_at_the_backups_report(record: logging.LogRecord) -> bool:
    """As if somebody pressed Ctrl-C when the backup was kept and only its report was missing."""
    if "| proof |" in record.getMessage():
        raise KeyboardInterrupt
    return True


def test_the_operation_of_a_backup_that_is_interrupted_at_its_end_is_not_given_out_as_the_deploys(
    lab: Rollout, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    lab.repository.release("feat: interrupted at its backup", {})
    lab.toml("proven_backup = false", "proven_backup = true")
    people.take_outcome()
    people.LOG.addFilter(interrupt_at_the_backups_report)
    try:
        with pytest.raises(KeyboardInterrupt):
            deploy("test")
    finally:
        people.LOG.removeFilter(interrupt_at_the_backups_report)
        lab.toml()
    assert "before-deploy" in {each.kind for each in lab.world.ledger.backups() if each.state == "complete"}
    assert people.take_outcome() == {}


def test_a_migration_that_fails_ends_its_deploy_and_blocks_no_other(lab: Rollout) -> None:
    before, file = lab.serves(), "migrations/0002_made.sql"
    lab.also("proven_backup = false", "proven_backup = true")
    people.take_outcome()
    lab.repository.release("feat: a table, misspelt", {}, {file: "create tabel public.made (id bigint);\n"})
    with pytest.raises(NotDone, match=r"the migrations failed with exit code 1: .*syntax error"):
        deploy("test")
    assert lab.world.ledger.open() == []
    assert lab.serves() == before
    head = lab.repository.release("fix: a table", {}, {file: "create table public.made (id bigint);\n"})
    assert "KEPT" in deploy("test")
    assert lab.serves() == head
    assert lab.newest.release.schema_after != lab.newest.release.schema_before
    assert "before-deploy" in {each.kind for each in lab.world.ledger.backups()}
    assert people.take_outcome() == {}  # the backup's operation is not given out as the deploy's


def test_a_dry_run_runs_no_command_and_changes_nothing(lab: Rollout, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    before, runs = len(lab.world.ledger.history()), lab.runs()
    said = deploy("test", dry_run=True)
    assert said.startswith("deploy v")
    assert "would run: python -m unittest" in caplog.text
    assert (len(lab.world.ledger.history()), lab.runs()) == (before, runs)


def test_no_traffic_proves_nothing_and_says_so(lab: Rollout) -> None:
    lab.repository.release("feat: nobody looks", {})
    said = deploy("test")
    assert "inconclusive (policy extend): no request was seen" in said or "no request" in said
    assert "any error rate" in said


def test_a_breaking_migration_is_refused_unless_declared(lab: Rollout) -> None:
    breaking = {"migrations/0003_drop.sql": "-- breaking\ndrop table public.favourites;\n"}
    lab.repository.release("feat: drop a column", {}, breaking)
    with pytest.raises(NotDone, match="0003_drop would break"):
        deploy("test")
    lab.toml('status = "python migrate.py status"', 'compatible = ["0003_drop"]\nstatus = "python migrate.py status"')
    try:
        assert "KEPT" in deploy("test")
    finally:
        lab.toml()
    with pytest.raises(NotDone, match="cannot work with the migrations 0003_drop"):
        rollback("test", reason="a test")


def test_two_deploys_at_once_one_wins_and_the_other_says_who(lab: Rollout) -> None:
    lab.repository.release("feat: one of two", {})
    said: list[str] = []

    def second() -> None:
        deadline = time.monotonic() + 60
        while not lab.world.ledger.open() and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            said.append(deploy("test"))
        except NotDone as refused:
            said.append(str(refused))

    other = threading.Thread(target=second)
    other.start()
    assert "KEPT" in deploy("test")
    other.join(60)
    assert "is held by deploy" in said[0]


def test_a_rollback_gives_the_traffic_to_the_kept_release_and_looks_whether_it_helped(
    lab: Rollout, visitors: Path
) -> None:
    now = lab.serves()
    said = rollback("test", reason="the list looks odd")
    assert "serves again" in said
    assert "it helped" in said
    assert lab.serves() != now
    assert failures(visitors) == []
    told = lab.newest
    assert (told.release.kind, told.release.reason) == ("rollback", "the list looks odd")


def test_a_rollback_needs_neither_the_counter_nor_the_database(lab: Rollout, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    now, back = lab.serves(), lab.repository.head()[:10]  # what the rollback before took back
    lab.counter.stop()
    with pytest.raises(Unreachable, match="silent since"):
        ask_until_silent(lab)
    try:
        with closed(lab.scene.database):
            said = rollback("test", to=back, dry_run=True)
        rollback("test", to=back, reason="nothing else works")
    finally:
        lab.count()
    assert said.startswith("rollback on test: back to")
    assert "what was served is not known" in caplog.text
    assert "the schema is not known" in caplog.text
    assert lab.serves() not in {now, ""}


def test_a_rollback_to_what_never_served_is_refused_before_anything(lab: Rollout) -> None:
    before = len(lab.world.ledger.history())
    with pytest.raises(NotDone, match="names no release that ever served"):
        rollback("test", to="v99")
    assert len(lab.world.ledger.history()) == before


def test_a_rollback_during_a_bake_asks_the_deploy_to_undo_itself(lab: Rollout) -> None:
    """Once it names a target that could be gone back to; till then the deploy is left alone."""
    before = lab.serves()
    lab.repository.release("feat: regretted at once", {})
    lab.toml('minimum = "3s"\nmaximum = "5s"', 'minimum = "60s"\nmaximum = "90s"')
    ended: list[str] = []

    def goes_out() -> None:
        try:
            ended.append(deploy("test"))
        except NotDone as undone:
            ended.append(str(undone))

    out = threading.Thread(target=goes_out)
    out.start()
    deadline = time.monotonic() + 60
    while lab.serves() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        with pytest.raises(NotDone, match="names no release that ever served"):
            rollback("test", to="v99")
        with pytest.raises(NotDone, match="is what is being deployed now"):
            rollback("test", to=lab.serves()[:10])
        with pytest.raises(NotDone, match="cannot work with the migrations 0003_drop"):
            rollback("test", to=git(lab.repository, "rev-list", "--max-parents=0", "main")[:10])
        assert [each.state for each in lab.world.ledger.open()] == ["acting"]
        said = rollback("test", reason="a regret")
    finally:
        lab.toml()
        out.join(60)
    assert "has undone itself" in said
    assert "asked to stop before the commit: rollback by" in ended[0]
    assert lab.serves() == before


def test_the_bake_says_again_what_it_said(lab: Rollout) -> None:
    told = next(each for each in lab.world.ledger.releases.all() if each.why.startswith("ROLLED BACK"))
    lab.also("minimum_baseline = 100", 'minimum_baseline = 7\nobjective_error_percent = 60.0\nprofile = "strict"')
    assert bake("test", f"v{told.release.number}") == told.why  # by the terms of then, not of today
    lab.toml()


def test_history_names_all_and_what_serves(lab: Rollout, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    said = history("test")
    assert "serves;" in said
    assert f"{len(lab.world.ledger.releases.all())} releases are remembered" in said
    work = next(each for each in lab.world.ledger.releases.work().values() if each.looks)
    assert {"branch", "freeze", "migrations"} < {gate.name for gate in work.gates}
    assert "start " in work.steps
    assert "shift to " in work.steps
    assert f"  steps: {work.steps}\n" in caplog.text
