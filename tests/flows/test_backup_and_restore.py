"""The main job on real parts, in break glass: backup, proof, restore, swap; and what is refused."""

import pytest

from blocks.postgres.address import Address
from flows.backup.flow import backup
from flows.effect import NotDone, without_prefect
from flows.prove.flow import prove
from flows.restore.flow import restore
from flows.world import World
from tests.parts.postgres import drop_database

ROWS = 500


@pytest.fixture
def filled(database: Address) -> Address:
    """A small service's tables."""
    with database.connect() as connection:
        connection.execute("create table public.users (id bigint generated always as identity primary key, name text)")
        connection.execute("create index users_name on public.users (name)")
        connection.execute(
            "insert into public.users (name) select '사용자 ' || n from generate_series(1, %s) n", [ROWS]
        )
    return database


def rows_in(address: Address) -> int:
    with address.connect() as connection:
        row = connection.execute("select count(*) from public.users").fetchone()
        return row[0] if row else 0


@pytest.mark.usefixtures("glass", "filled")
def test_a_backup_is_proven_and_restored_beside_the_live_database(world: World, database: Address) -> None:
    taken = backup("test", "daily")
    assert "500 rows of 1 table" in taken
    assert "is proven: 500 rows of 1 table restored and equal" in prove("test")
    restored = restore("test", into=f"{database.database}_back")
    assert "every table compared" in restored
    there = database.at(f"{database.database}_back")
    assert rows_in(there) == rows_in(database) == ROWS
    assert [each.state for each in world.ledger.backups()] == ["complete"]
    assert not world.ledger.open()
    drop_database(there)


@pytest.mark.usefixtures("filled", "world")
def test_a_swap_renames_both_and_keeps_the_old_one_closed(database: Address) -> None:
    with without_prefect(yes="anna"):
        backup("test")
        prove("test")
        with database.connect() as connection:
            connection.execute("delete from public.users")
        sentence = restore("test", swap=database.database)
    assert f"is live as {database.database}" in sentence
    assert rows_in(database) == ROWS
    drop_database(database.at(sentence.rpartition(" ")[2]))


@pytest.mark.usefixtures("filled", "world", "glass")
def test_a_swap_without_approval_leaves_the_restored_one_beside_the_live_one(database: Address) -> None:
    backup("test")
    prove("test")
    with pytest.raises(NotDone, match="was not approved"):
        restore("test", swap=database.database)
    assert rows_in(database) == ROWS
