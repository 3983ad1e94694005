"""A database comes back as it was: every kind of object, on both majors."""

import secrets
from collections.abc import Generator
from pathlib import Path

import pytest

from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.postgres.load import make_roles
from blocks.postgres.machine import own
from blocks.postgres.snapshot import hold, survey
from blocks.postgres.tools import server_tools
from tests.blocks.trip import bring_back, client, folder, new_database, one, run, store, taken

KINDS = Path(__file__).with_name("kinds.sql").read_text()


def fill(address: Address) -> None:
    make_roles(address, ["reader"])
    run(address, KINDS)


@pytest.mark.parametrize("server", ["database", "database15"])
def test_every_kind_of_object_comes_back_as_it_was(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    address: Address = request.getfixturevalue(server)
    fill(address)
    contents = taken(address, folder(tmp_path))
    with new_database(address, contents) as new:
        back = bring_back(new, contents, folder(tmp_path))
        assert back.differences == []
        assert one(new, "select count(*) from ages") == 10
        assert one(new, "select nextval('untouched')") == 1
        assert one(new, "select nextval('free')") == one(address, "select nextval('free')")
    assert contents.large_objects.count == 3
    assert back.compared.lacks == ()


def test_what_a_dump_cannot_hold_is_named(database: Address, tmp_path: Path) -> None:
    fill(database)
    assert survey(database).left_out == ("foreign table data: public.remote", "owner and rights of large objects")


@pytest.fixture
def fast(postgres17: Cluster) -> Generator[str]:
    """A tablespace; it must be empty at the end."""
    name = f"fast_{secrets.token_hex(3)}"
    folder = postgres17.folder / name
    folder.mkdir(mode=0o700)
    own(folder)
    run(postgres17.address(), f"create tablespace {name} location '{folder}'")
    yield name
    run(postgres17.address(), f"drop tablespace if exists {name}")


def test_what_lies_in_a_tablespace_comes_back_on_a_server_without_it(
    database: Address, fast: str, tmp_path: Path
) -> None:
    run(
        database,
        f"create table hot (id integer primary key using index tablespace {fast}, t text) tablespace {fast}",
        f"create table parted (id integer) partition by range (id) tablespace {fast}",
        "create table parted_1 partition of parted for values from (0) to (10)",
        f"create index hot_t on hot (t) tablespace {fast}",
        f"create materialized view warm tablespace {fast} as select 1 as n",
        "insert into hot values (1, 'one')",
        "insert into parted values (1)",
    )
    assert survey(database).left_out == (f"place in tablespace {fast}: public.hot and 5 more",)
    contents = taken(database, folder(tmp_path))
    run(database, "drop table hot, parted", "drop materialized view warm", f"drop tablespace {fast}")
    with new_database(database, contents) as new:
        assert bring_back(new, contents, folder(tmp_path)).differences == []
        assert one(new, "select t from hot") == "one"


def test_the_tablespace_of_a_database_is_named(database: Address, fast: str) -> None:
    run(database.at("postgres"), f"alter database {database.database} set tablespace {fast}")
    assert survey(database).left_out == (f"place in tablespace {fast}: the database",)
    run(database.at("postgres"), f"alter database {database.database} set tablespace pg_default")


def test_an_empty_database_comes_back_empty(database: Address, tmp_path: Path) -> None:
    contents = taken(database, folder(tmp_path))
    assert contents.totals["tables"] == contents.totals["rows"] == 0
    with new_database(database, contents) as new:
        assert bring_back(new, contents, folder(tmp_path)).differences == []


def test_a_row_of_a_hundred_megabytes_comes_back(database: Address, tmp_path: Path) -> None:
    run(
        database,
        "create table wide (id integer primary key, a text, b bytea)",
        "insert into wide select 1, repeat(md5('1'), 1638400), decode(repeat('00ff', 12500000), 'hex')",
    )
    contents = taken(database, folder(tmp_path))
    assert contents.totals["plain_bytes"] > 100_000_000
    with new_database(database, contents) as new:
        assert bring_back(new, contents, folder(tmp_path)).differences == []


def test_rows_come_back_in_their_order_after_deletes_and_updates(database: Address, tmp_path: Path) -> None:
    run(
        database,
        "create table worn (id integer, t text)",
        "insert into worn select i, repeat('x', i % 3000) from generate_series(1, 3000) i",
        "delete from worn where id % 3 = 0",
        "update worn set t = repeat('y', 2000) where id % 5 = 0",
        "vacuum worn",
        "insert into worn select i, repeat('z', i % 500) from generate_series(1, 2000) i",
    )
    contents = taken(database, folder(tmp_path))
    with new_database(database, contents) as new:
        assert bring_back(new, contents, folder(tmp_path)).differences == []


def test_rows_of_an_extensions_configuration_table_come_back(database: Address, tmp_path: Path) -> None:
    """pg_trgm and its kin have none; pg_extension_config_dump is the server's own way to make one."""
    run(
        database,
        "create extension pgcrypto",
        "create table notes (id integer, mine boolean)",
        "alter extension pgcrypto add table notes",
        "insert into notes values (1, true), (2, false)",
        "update pg_extension set extconfig = array['notes'::regclass::oid], extcondition = array['where mine']"
        " where extname = 'pgcrypto'",
    )
    contents = taken(database, folder(tmp_path))
    assert [(str(table), table.condition) for table in contents.tables] == [("public.notes", "where mine")]
    assert contents.data()[0][1].rows == 1


def test_another_encoding_comes_back(database: Address, tmp_path: Path) -> None:
    latin = database.at(f"{database.database}_latin")
    run(database, f"create database {latin.database} template template0 encoding 'LATIN1' locale 'C'")
    try:
        run(latin, 'create table "caf\u00e9" (t text)', "insert into \"caf\u00e9\" values ('na\u00efve')")
        contents = taken(latin, folder(tmp_path))
        with new_database(latin, contents) as new:
            assert bring_back(new, contents, folder(tmp_path)).differences == []
            assert one(new, 'select t from "caf\u00e9"') == "na\u00efve"
            assert one(new, "select getdatabaseencoding()") == "LATIN1"
    finally:
        run(database, f"drop database {latin.database} with (force)")


def comes_back_as_locale(address: Address, options: str, column: str, tmp_path: Path) -> object:
    other = address.at(f"{address.database}_locale")
    run(address, f"create database {other.database} template template0 {options} locale 'C'")
    try:
        contents = taken(other, folder(tmp_path))
        with new_database(other, contents) as new:
            assert bring_back(new, contents, folder(tmp_path)).differences == []
            whole = f"datlocprovider::text || {column}"
            return one(new, f"select {whole} from pg_database where datname = current_database()")  # noqa: S608
    finally:
        run(address, f"drop database {other.database} with (force)")


def test_a_locale_of_icu_comes_back(database15: Address, tmp_path: Path) -> None:
    options = "locale_provider icu icu_locale 'de-DE'"
    assert comes_back_as_locale(database15, options, "daticulocale", tmp_path) == "ide-DE"


def test_a_builtin_locale_comes_back(database: Address, tmp_path: Path) -> None:
    options = "locale_provider builtin builtin_locale 'C.UTF-8'"
    assert comes_back_as_locale(database, options, "datlocale", tmp_path) == "bC.UTF-8"


def test_a_newer_client_can_bring_an_older_servers_archive_back(database15: Address, tmp_path: Path) -> None:
    """Only 15's server is here, and 17's client: pg_restore 17 sets what 15 does not know."""
    run(database15, "create table t (id integer primary key)", "insert into t values (1)")
    newer = server_tools(17)
    with hold(database15) as held:
        contents = store(held, folder(tmp_path), tools=newer)
    assert client(database15).major == 15
    with new_database(database15, contents) as new:
        assert bring_back(new, contents, folder(tmp_path), tools=newer).differences == []
