"""What the ledger remembers of backups, its migrations, and what it says of itself."""

from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from flows.ledger import Fenced, Ledger, Operation, steps
from flows.records import Backup, Check, Proof
from tests.parts.ledger import ledger_database, make_world
from tests.parts.toys import ToyFile, ToyPlan, ToyWorld, toy_ledger, toy_moves

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
