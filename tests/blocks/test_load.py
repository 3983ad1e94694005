"""A load keeps only what was compared; a comparison finds what differs."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from blocks.errors import Garbled, Missing, Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.postgres.compare_jobs import Both, Splitter, lines_of
from blocks.postgres.contents import Contents, Table
from blocks.postgres.crew import Crew
from blocks.postgres.load import Difference, create_database, crew_for, load, make_roles, read_back
from blocks.stream import new_identity
from tests.blocks.trip import IDENTITY, PREFIX, Back, bring_back, client, folder, new_database, one, run, taken
from tests.parts.postgres import drop_database as forget_database
from tests.parts.postgres import make_database
from tests.parts.processes import children, command_lines, eventually, kill, meanwhile

SCHEMA = """
create table a (id integer primary key, t text); insert into a select i, md5(i::text) from generate_series(1, 3000) i;
create table b (id integer, t text); insert into b select i, 'b' || i from generate_series(1, 3000) i;
create table c (mail text primary key); insert into c values ('canary@example.org'), ('other@example.org');
create sequence s; select nextval('s'); select lo_from_bytea(77, 'large');
create materialized view m as select count(*) from a; create index b_id on b (id);
create unique index m_count on m (count);
"""


@pytest.fixture(scope="module")
def source(postgres17: Cluster) -> Generator[Address]:
    address = make_database(postgres17)
    run(address, SCHEMA)
    yield address
    forget_database(address)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture(scope="module")
def contents(source: Address, shelf: Path) -> Contents:
    return taken(source, folder(shelf))


@pytest.fixture
def new(source: Address, contents: Contents) -> Generator[Address]:
    with new_database(source, contents) as address:
        yield address


def crew(new: Address, contents: Contents, shelf: Path, identity: str = IDENTITY) -> Crew:
    return crew_for(new, contents, folder(shelf), PREFIX, [identity], tools=client(new), application_name="the load")


def loaded(new: Address, contents: Contents, shelf: Path, identity: str = IDENTITY) -> int:
    with crew(new, contents, shelf, identity) as workers:
        return load(new, contents, workers, application_name="the load").kept


def file_of(contents: Contents, table: str, shelf: Path) -> Path:
    key = next(stored.key for found, stored in contents.data() if found.name == table)
    return shelf / "store" / PREFIX / key


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def swapped(file: Path) -> None:
    """A whole object of the same backup, in the place of another."""
    shutil.copy(next(file.parent.glob("*.b.copy.zst.age")), file)


def removed(file: Path) -> None:
    file.unlink()


def test_a_damaged_object_leaves_its_table_empty_until_it_is_mended(
    contents: Contents, new: Address, shelf: Path
) -> None:
    file = file_of(contents, "a", shelf)
    whole = file.read_bytes()
    damages: tuple[Callable[[Path], None], ...] = (flipped, cut, swapped, removed)
    for damage in damages:
        damage(file)
        with pytest.raises((Garbled, Missing)):
            loaded(new, contents, shelf)
        assert one(new, "select count(*) from a") == 0
        file.write_bytes(whole)
    filled = sum(bool(one(new, f"select exists (select from {name})")) for name in ("b", "c"))  # noqa: S608
    assert loaded(new, contents, shelf) == filled
    assert bring_back_only(new, contents, shelf) == ()


def bring_back_only(new: Address, contents: Contents, shelf: Path) -> tuple[Difference, ...]:
    with crew(new, contents, shelf) as workers:
        return read_back(contents, workers).differences


def test_a_wrong_identity_is_refused_before_any_table_is_made(contents: Contents, new: Address, shelf: Path) -> None:
    with pytest.raises(Refused, match="no identity given opens"):
        loaded(new, contents, shelf, new_identity())
    assert one(new, "select count(*) from pg_tables where schemaname = 'public'") == 0


def test_a_filled_database_is_refused(contents: Contents, new: Address, shelf: Path) -> None:
    run(new, "create table there (a integer)")
    with pytest.raises(Refused, match="is not empty: drop it and start over"):
        loaded(new, contents, shelf)


def test_a_database_of_somebody_else_is_refused(contents: Contents, new: Address, shelf: Path) -> None:
    run(new, f"comment on database {new.database} is 'the live one'")
    with pytest.raises(Refused, match="its comment says 'the live one'"):
        loaded(new, contents, shelf)


def test_a_load_that_died_while_indexes_were_built_starts_over(contents: Contents, new: Address, shelf: Path) -> None:
    loaded(new, contents, shelf)
    run(new, f"comment on database {new.database} is 'shipkeeper: incomplete, indexes begun'")
    with pytest.raises(Refused, match="a restore died in it"):
        loaded(new, contents, shelf)


def test_a_whole_load_run_again_keeps_everything(contents: Contents, new: Address, shelf: Path) -> None:
    assert loaded(new, contents, shelf) == 0
    assert loaded(new, contents, shelf) == len(contents.tables)
    comment = "select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()"
    assert one(new, comment) == "shipkeeper: incomplete, indexes built"


def test_a_new_database_is_closed_to_the_public_and_its_name_is_taken_once(contents: Contents, new: Address) -> None:
    assert one(new, "select has_database_privilege('public', current_database(), 'connect')") is False
    with pytest.raises(Refused, match="already exists"):
        create_database(new, new.database, contents.database)


def test_roles_are_made_once_and_cannot_log_in(database: Address) -> None:
    name = f"role of {database.database}"
    assert make_roles(database, ["postgres", name]) == [name]
    assert make_roles(database, [name]) == []
    assert one(database, f"select rolcanlogin from pg_roles where rolname = '{name}'") is False  # noqa: S608
    run(database, f'drop role "{name}"')


CHANGES = {
    "update a set t = 'other' where id = 1700": "table public.a: order or text differs, first at row",
    "delete from b where id = 3000": "table public.b: order or text differs, first at row 3000",
    "update c set mail = 'x' where mail like 'canary%'": "table public.c: order or text differs, first at row 1",
    "drop index m_count": "schema: index CREATE",
    "alter table b add column more integer": "schema: column public.b.more",
    "select setval('s', 1, false)": "sequence public.s",
    "select lo_put(77, 0, 'LARGE')": "large objects",
    "refresh materialized view m with no data": "materialized view public.m",
    "update pg_index set indisvalid = false where indexrelid = 'b_id'::regclass": "index public.b_id",
    "create schema surplus": "schema: schema surplus",
}


def test_each_change_after_the_load_is_found_and_named(contents: Contents, new: Address, shelf: Path) -> None:
    loaded(new, contents, shelf)
    run(new, *CHANGES)
    found = bring_back_only(new, contents, shelf)
    for what in CHANGES.values():
        assert any(each.what.startswith(what) and each.grave for each in found), what
    assert "canary" not in str(found)
    assert len(found) == len(CHANGES) + 1  # the invalid index has no line in the schema either


def compared(wanted: bytes, found: bytes, key: tuple[str, ...] = ("id",)) -> str:
    return verdict_and_rows(wanted, found, key)[0]


def verdict_and_rows(wanted: bytes, found: bytes, key: tuple[str, ...] = ("id",)) -> tuple[str, int]:
    both = Both(lines_of(iter([found[:3], found[3:]])), Table("s", "t", ("id", "x"), key))
    splitter = Splitter(both.compare)
    splitter.feed(wanted)
    return both.verdict(), both.rows


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (b"1\ta\n2\tb\n", "first at row 3 (id 3)"),
        (b"1\ta\n2\tB\n3\tc\n", "first at row 2 (id 2)"),
        (b"1\ta\n2\tb\n3\tc\n4\td\n", "first at row 4 is one too many"),
        (b"3\tc\n2\tb\n1\ta\n", "the order of its rows"),
        (b"1\ta\n1\ta\n3\tc\n", "first at row 2 (id 2)"),
    ],
)
def test_the_first_row_that_differs_is_named_by_its_key(found: bytes, verdict: str) -> None:
    assert verdict_and_rows(b"1\ta\n2\tb\n3\tc\n", found) == (verdict, found.count(b"\n"))


def test_a_key_that_says_more_than_a_number_is_not_named() -> None:
    assert compared(b"canary@example.org\ta\n", b"") == "first at row 1"
    assert compared(b"1\ta\n", b"", key=()) == "first at row 1"


def test_the_same_rows_in_another_order_are_not_grave(contents: Contents, new: Address, shelf: Path) -> None:
    loaded(new, contents, shelf)
    run(
        new, "create table again as select * from b order by id desc", "truncate b", "insert into b select * from again"
    )
    run(new, "drop table again")
    (found,) = bring_back_only(new, contents, shelf)
    assert found.what == "table public.b: order or text differs, the order of its rows"
    assert not found.grave


def test_a_corrupted_index_is_found_by_amcheck(contents: Contents, new: Address, shelf: Path) -> None:
    loaded(new, contents, shelf)
    run(new, "update pg_opclass set opckeytype = opckeytype", *LIE)
    with crew(new, contents, shelf) as workers:
        compared = read_back(contents, workers, amcheck=True)
    assert compared.lacks == ()
    assert [each.what for each in compared.differences if "amcheck" in each.found] == ["index public.b_id"]


LIE = (  # rows that the index does not know: it is told to be read-only for a moment
    "update pg_index set indisready = false where indexrelid = 'b_id'::regclass",
    "insert into b values (0, 'unknown to the index')",
    "update pg_index set indisready = true where indexrelid = 'b_id'::regclass",
)


def test_a_killed_worker_fails_the_load_and_a_second_run_finishes_it(
    contents: Contents, new: Address, shelf: Path
) -> None:
    before = set(children(os.getpid()))
    waits = "select exists (select from pg_locks where not granted and relation = 'pg_largeobject'::regclass)"

    def kill_one_that_waits() -> None:
        with new.connect() as connection, connection.transaction():
            connection.execute("lock table pg_catalog.pg_largeobject in share mode")
            ready.set()
            eventually(lambda: one(new, waits))
            for pid in {pid for pid, words in command_lines().items() if "blocks.postgres.worker" in words} - before:
                if pid in children(os.getpid()):
                    kill(pid, signal.SIGKILL)

    ready = threading.Event()
    with meanwhile(kill_one_that_waits):
        assert ready.wait(20)
        with pytest.raises(Unreachable, match="a worker process died"):
            loaded(new, contents, shelf)
    eventually(lambda: set(children(os.getpid())) <= before)
    assert bring_back_only(new, contents, shelf) != ()
    loaded(new, contents, shelf)
    assert bring_back_only(new, contents, shelf) == ()


def test_a_restored_database_has_no_dead_rows_and_fresh_statistics(
    contents: Contents, new: Address, shelf: Path
) -> None:
    back: Back = bring_back(new, contents, folder(shelf))
    assert back.differences == []
    assert one(new, "select reltuples from pg_class where relname = 'a'") == 3000
    assert set(back.loaded.seconds) == {"tables", "rows", "indexes", "analyze"}
