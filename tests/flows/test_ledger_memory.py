"""What the ledger remembers of backups, its migrations, and what it says of itself."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from flows.ledger import Fenced, Ledger, Operation, steps
from flows.ledger.lease import Lease, boottime
from flows.ledger.line import Line
from flows.ledger.migrate import FILES, LOCK, migrate, version
from flows.records import Backup, Check, Proof
from tests.parts.ledger import ledger_database, make_world
from tests.parts.processes import eventually
from tests.parts.toys import ToyFile, ToyPlan, ToyWorld, toy_ledger, toy_moves
from tests.parts.wire import Wire

AT = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
BACKUP = Backup(
    id="20261124T020000Z-daily-k3v9q2",
    stage="production",
    service="curator",
    database="live",
    kind="daily",
    state="complete",
    snapshot_at=AT,
    started=AT,
    manifest_sha256="ab" * 32,
)
FAILED = BACKUP.model_copy(update={"id": "20261124T010000Z-daily-aaaaaa", "state": "failed", "error": "disk full"})
PROOF = Proof(backup=BACKUP.id, verdict="proven", at=AT, prover="p", server_version="17.10", manifest_sha256="ab" * 32)
CHECK = Check(backup=BACKUP.id, rung=1, at=AT, ok=True, sentence="all bytes read")

NEWER = "is at version 3, this shipkeeper knows up to 2: run the newer one"


@pytest.fixture(scope="module")
def address(postgres17: Cluster) -> Generator[Address]:
    yield from ledger_database(postgres17)


@pytest.fixture
def world(tmp_path: Path, address: Address) -> ToyWorld:
    return make_world(tmp_path, address)


@pytest.fixture
def ledger(world: ToyWorld) -> Ledger:
    return toy_ledger(world)


def test_records_come_back_as_they_were_and_are_written_again_in_place(ledger: Ledger) -> None:
    for record in (BACKUP, FAILED, PROOF, CHECK, BACKUP, PROOF, CHECK):
        ledger.remember(record)
    asked = BACKUP.model_copy(update={"proof_asked_at": AT})
    ledger.remember(asked)

    assert ledger.backups() == [FAILED, asked]
    assert ledger.proofs() == ledger.proofs(BACKUP.id) == [PROOF]
    assert ledger.checks() == ledger.checks(BACKUP.id) == [CHECK]
    assert ledger.proofs("another") == []


def test_a_backup_is_forgotten_with_its_proofs_and_checks(ledger: Ledger) -> None:
    for record in (BACKUP, FAILED, PROOF, CHECK):
        ledger.remember(record)

    ledger.forget(BACKUP.id)

    assert (ledger.backups(), ledger.proofs(), ledger.checks()) == ([FAILED], [], [])


def test_who_lost_its_operation_records_nothing(world: ToyWorld, ledger: Ledger) -> None:
    @steps("records late", holds=["{stage}/backups/{database}"])
    def late(op: Operation, plan: ToyPlan) -> None:
        ledger.remember(FAILED, op)
        with closing(world.address.connect()) as connection:
            connection.execute("update ledger.operation set token = nextval('ledger.token')")
        ledger.remember(BACKUP, op)

    with pytest.raises(Fenced):
        ledger.carry_out(late, ToyPlan(), key="k")
    assert ledger.backups() == [FAILED]


def test_a_tick_is_remembered_by_name(ledger: Ledger) -> None:
    assert ledger.ticked("watch") is None
    ledger.tick("watch")
    first = ledger.ticked("watch")
    ledger.tick("watch")
    second = ledger.ticked("watch")

    assert first
    assert second
    assert timedelta() < second - first < timedelta(seconds=10)


def test_old_stories_are_swept_and_keys_stay_known_for_two_years(world: ToyWorld, ledger: Ledger) -> None:
    ledger.carry_out(toy_moves, ToyPlan(moves=(("a", 1),)), key="old")
    ledger.carry_out(toy_moves, ToyPlan(moves=(("a", 2),)), key="new")

    _age(world, "old", 91)
    ledger.sweep()
    assert [len(ledger.story(entry.id)) > 0 for entry in ledger.history()] == [True, False]
    assert ledger.carry_out(toy_moves, ToyPlan(), key="old").state == "done"
    _age(world, "old", 731)
    ledger.sweep()
    assert [entry.key for entry in ledger.history()] == ["new"]


def _age(world: ToyWorld, key: str, days: int) -> None:
    with closing(world.address.connect()) as connection:
        connection.execute("alter table ledger.operation disable trigger legal")
        connection.execute(
            "update ledger.operation set ended_at = now() - %s * interval '1 day' where key = %s", [days, key]
        )
        connection.execute("alter table ledger.operation enable trigger legal")


def test_a_second_migration_changes_nothing_and_says_so(database: Address) -> None:
    ledger = Ledger(database)
    with pytest.raises(Refused, match="is at version 0, 2 is needed: apply the stage"):
        ledger.check()

    assert ledger.migrate().endswith("is now at version 2: applied 0001_ledger, 0002_releases")
    assert ledger.migrate().endswith("is at version 2: nothing to do")
    assert ledger.check().endswith("answers, version 2, 0 open operations, reconcile never passed")


def test_another_stages_older_ledger_is_refused_and_stays_as_it_was(
    database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("flows.ledger.migrate.FILES", FILES[:1])
        migrate(database, "production")

    with pytest.raises(Refused, match="is that of stage production: give staging a database of its own"):
        migrate(database, "staging")

    assert version(database) == 1
    with closing(database.connect()) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("select from ledger.release")


def test_of_two_stages_that_apply_at_once_one_gets_the_ledger(database: Address) -> None:
    waiting = """select from pg_locks join pg_database on pg_database.oid = database
        where datname = current_database() and locktype = 'advisory' and not granted"""
    with ThreadPoolExecutor() as pool, closing(database.connect()) as connection:
        with connection.transaction():
            connection.execute(LOCK)
            applies = [pool.submit(migrate, database, stage) for stage in ("production", "staging")]
            eventually(lambda: len(connection.execute(waiting).fetchall()) == len(applies))
        refused = [str(apply.exception()) for apply in applies if apply.exception()]

    assert len(refused) == 1
    assert refused[0].endswith("a database of its own")


def test_a_ledger_of_a_newer_shipkeeper_is_refused(database: Address) -> None:
    ledger = Ledger(database)
    ledger.migrate()
    _grow(database)

    for ask in (ledger.migrate, ledger.check):
        with pytest.raises(Refused, match=NEWER):
            ask()


def test_nothing_is_done_or_written_in_a_ledger_of_a_newer_shipkeeper(database: Address, tmp_path: Path) -> None:
    world = ToyWorld(tmp_path, database)
    Ledger(database).migrate()
    _grow(database)
    ledger = toy_ledger(world)

    for write in (
        lambda: ledger.carry_out(toy_moves, ToyPlan(moves=(("a", 1),)), key="k"),
        ledger.tick_once,
        lambda: ledger.remember(BACKUP),
    ):
        with pytest.raises(Refused, match=NEWER):
            write()

    assert world.written() == []
    assert _rows(database) == (0, 0, 0)


def test_a_reconcile_that_lived_through_an_upgrade_stops_at_its_next_pass(database: Address, tmp_path: Path) -> None:
    Ledger(database).migrate()
    old = toy_ledger(ToyWorld(tmp_path, database))
    old.tick_once()
    _grow(database)
    with closing(database.connect()) as connection:
        connection.execute("delete from ledger.tick")

    with pytest.raises(Refused, match=NEWER):
        old.tick_once()

    assert _rows(database) == (0, 0, 0)


@pytest.mark.parametrize("committed", [False, True])
def test_a_failure_after_an_upgrade_is_said_as_itself(database: Address, tmp_path: Path, *, committed: bool) -> None:
    @steps(f"fails after an upgrade {committed}", holds=["{stage}/release"])
    def fails(op: Operation, plan: ToyPlan) -> None:
        if committed:
            op.commit("no way back")
        _grow(database)
        wire.cut()
        raise Refused("the disk is full")

    Ledger(database).migrate()
    with closing(Wire(database)) as wire, pytest.raises(Refused, match=r"^the disk is full"):
        toy_ledger(ToyWorld(tmp_path, wire.address)).carry_out(fails, ToyPlan(), key="k")


def test_a_connection_that_could_not_be_checked_is_never_asked_over(database: Address) -> None:
    migrate(database)
    with closing(database.connect()) as connection:
        connection.execute("alter table ledger.migration rename to hidden")
    line = Line(database, 3)

    for _ in range(2):
        with pytest.raises(Refused, match="migration"):
            line.ask("select 1")


def test_a_renewal_that_was_refused_is_asked_again_until_the_lease_is_lost(address: Address) -> None:
    answers = iter((Refused("the role may not"), Fenced("taken over")))

    def renew(_: Line) -> None:
        raise next(answers)

    lease = Lease(Line(address, 0.3), 0.3, boottime())
    lease.hold(renew)

    eventually(lambda: lease.lost, 5)


def _grow(ledger: Address) -> None:
    with closing(ledger.connect()) as connection:
        connection.execute("insert into ledger.migration values (3, '0003_from_the_future')")


def _rows(ledger: Address) -> tuple[int, ...]:
    """How many operations, passes and backups it knows."""
    with closing(ledger.connect()) as connection:
        tables = ("operation", "tick", "backup")
        return tuple(len(connection.execute(f"select from ledger.{table}").fetchall()) for table in tables)


def test_a_ledger_that_was_never_made_ready_says_so_when_used(database: Address, tmp_path: Path) -> None:
    ledger = Ledger(database, ToyWorld(tmp_path, database))

    with pytest.raises(Refused, match="ledger"):
        ledger.carry_out(toy_moves, ToyPlan(moves=(("a", 1),)), key="k")
    assert ToyFile("a").read(ToyWorld(tmp_path, database)) is None


def test_a_ledger_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        Ledger(Address("/nowhere", 1, "postgres", "", "ledger")).check()
