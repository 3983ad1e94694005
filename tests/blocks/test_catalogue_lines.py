"""The schema's lines: the same for the same schema, another line for any change."""

import pytest

from blocks.postgres.address import Address
from blocks.postgres.catalogue import canonical, lines
from tests.blocks.trip import run

BASE = """
create type mood as enum ('a', 'b');
create table t (id integer primary key, a text default 'x', b varchar(9) check (b in ('p', 'q')));
create index t_a on t (a);
create view v as select a from t;
create function f() returns integer language sql as 'select 1';
create function g() returns trigger language plpgsql as 'begin return new; end';
create trigger tg before insert on t for each row execute function g();
create policy p on t using (id > 0);
create sequence s;
create domain d as integer check (value > 0);
"""


def of(address: Address) -> list[str]:
    with address.connect() as connection:
        return lines(connection)


@pytest.mark.parametrize(
    ("change", "heads"),
    [
        ("alter table t add column c integer", {"column"}),
        ("alter table t alter column b type varchar(10)", {"column"}),
        ("alter table t alter column a set default 'y'", {"column"}),
        ("alter table t alter column a set not null", {"column"}),
        ("drop index t_a", {"index"}),
        ("alter table t add constraint c check (id > 1)", {"constraint"}),
        ("alter table t add constraint c check (id > 1) not valid", {"constraint"}),
        ("create or replace view v as select a, id from t", {"view", "column"}),
        ("create or replace function f() returns integer language sql as 'select 2'", {"function"}),
        ("create or replace function f() returns integer language sql stable as 'select 1'", {"function"}),
        ("alter type mood add value 'c'", {"enum"}),
        ("alter table t disable trigger tg", {"trigger"}),
        ("alter policy p on t using (id > 1)", {"policy"}),
        ("alter table t enable row level security", {"relation"}),
        ("alter sequence s increment 2", {"sequence"}),
        ("alter domain d set not null", {"domain"}),
        ("comment on column t.a is 'x'", {"comment"}),
        ("create schema other", {"schema"}),
        ("alter table t set (fillfactor = 50)", {"relation"}),
        ("create extension citext", {"extension"}),
    ],
)
def test_a_change_of_the_schema_shows_in_its_lines(change: str, heads: set[str], database: Address) -> None:
    run(database, BASE)
    before = of(database)
    run(database, change)
    changed = set(before) ^ set(of(database))
    assert {line.split(" ")[0] for line in changed} >= heads
    assert changed


def test_rows_sequences_values_grants_and_owners_do_not_show(database: Address) -> None:
    run(database, BASE)
    before = of(database)
    run(database, "insert into t values (1)", "select nextval('s')", "grant select on t to public", "analyze t")
    assert of(database) == before


def test_adding_and_dropping_a_column_leaves_no_trace(database: Address) -> None:
    run(database, BASE)
    before = of(database)
    run(database, "alter table t add column c integer", "alter table t drop column c")
    assert of(database) == before


def test_a_left_out_schema_has_no_lines(database: Address) -> None:
    run(database, BASE)
    before = of(database)
    run(database, 'create schema "out"', 'create table "out".t (a integer primary key)')
    with database.connect() as connection:
        assert lines(connection, ["out"]) == before


def test_an_invalid_index_has_no_line_as_no_dump_holds_it(database: Address) -> None:
    run(database, "create table t (a integer)", "create index i on t (a)")
    before = of(database)
    run(database, "update pg_index set indisvalid = false where indexrelid = 'i'::regclass")
    assert set(before) - set(of(database)) == {"index CREATE INDEX i ON public.t USING btree (a)"}


def test_an_in_list_on_a_varchar_has_one_line_however_it_is_printed() -> None:
    before = "CHECK (((b)::text = ANY ((ARRAY['p'::character varying, 'it''s, q'::character varying])::text[])))"
    after = "CHECK (((b)::text = ANY (ARRAY[('p'::character varying)::text, ('it''s, q'::character varying)::text])))"
    assert canonical(before) == canonical(after) == after


def test_a_line_stays_one_line() -> None:
    assert canonical("a\nb\\n") == "a\\nb\\\\n"
