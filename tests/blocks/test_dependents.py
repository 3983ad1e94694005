"""What hangs on a schema that is left out: each kind of object by its name, and nothing that a dump leaves out too."""

import pytest

from blocks.postgres.address import Address
from blocks.postgres.snapshot import survey

AUTH = (
    "create schema auth",
    "create type auth.level as enum ('low', 'high')",
    "create table auth.users (id integer primary key, level auth.level)",
    "create function auth.uid() returns integer language sql as 'select 1'",
    "create function auth.touch() returns trigger language plpgsql as 'begin return new; end'",
    "create sequence auth.numbers",
)
HANGS = {
    "create view public.people as select id from auth.users": "view public.people",
    "create materialized view public.shown as select id from auth.users": "materialized view public.shown",
    "create table public.referring (id integer constraint theirs references auth.users)": (
        "table constraint theirs on public.referring"
    ),
    "create table public.defaulting (id integer default nextval('auth.numbers'))": (
        "default value for public.defaulting.id"
    ),
    "create table public.typed (level auth.level)": "table public.typed",
    "create table public.child () inherits (auth.users)": "table public.child",
    "create function public.of(auth.users) returns integer language sql as 'select 1'": (
        "function public.of(auth.users)"
    ),
    "create function public.levels() returns auth.level[] language sql as 'select null::auth.level[]'": (
        "function public.levels()"
    ),
    "create policy own on public.plain using (id = auth.uid())": "policy own on public.plain",
    "create trigger touched before update on public.plain execute function auth.touch()": (
        "trigger touched on public.plain"
    ),
    "create domain public.rank as auth.level": "type public.rank",
    "create extension hstore schema auth": "extension hstore",
}
DOES_NOT = (
    "create table auth.back (id integer references public.plain)",
    "create view auth.seen as select * from public.plain",
    "create trigger mine after insert on auth.users execute function public.welcome()",
    "create publication told for table public.plain, auth.users",
    "alter default privileges in schema auth grant select on tables to public",
    "create function public.quoted() returns text language plpgsql as 'begin return \"auth.users\"; end'",
)
PLAIN = (
    "create table public.plain (id integer primary key)",
    "create function public.welcome() returns trigger language plpgsql as 'begin return new; end'",
    "create view public.harmless as select * from public.plain",
)


def run(address: Address, *commands: str) -> None:
    with address.connect() as connection:
        for command in commands:
            connection.execute(command.encode())


@pytest.mark.parametrize("server", ["database", "database15"])
def test_everything_that_hangs_on_a_left_out_schema_is_named_and_nothing_else(
    server: str, request: pytest.FixtureRequest
) -> None:
    address: Address = request.getfixturevalue(server)
    run(address, *AUTH, *PLAIN, *DOES_NOT)
    assert survey(address, exclude_schemas=["auth"]).dependents == {}
    run(address, *HANGS)
    assert survey(address).dependents == {}
    assert survey(address, exclude_schemas=["auth"]).dependents == {"auth": tuple(sorted(HANGS.values()))}


def test_an_odd_name_is_found_too(database: Address) -> None:
    run(database, 'create schema "Odd ""one"', 'create table "Odd ""one".t (id integer)')
    run(database, 'create view public.v as select * from "Odd ""one".t')
    assert survey(database, exclude_schemas=['"Odd ""one"']).dependents == {'Odd "one': ("view public.v",)}
