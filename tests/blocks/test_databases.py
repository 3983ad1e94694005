"""Databases as wholes: two renames under live clients or none, what travels with a name, what a plain role may."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from blocks.errors import BlockError, Refused
from blocks.postgres import databases
from blocks.postgres.address import Address
from blocks.postgres.load import create_database
from tests.parts.deaths import DIED, fork
from tests.parts.postgres import drop_database

LOCALE = {"encoding": "UTF8", "collate": "C", "ctype": "C", "provider": "c", "locale": None}
ROLE_PASSWORD = "role-canary"


def run(address: Address, *commands: str) -> None:
    with address.connect() as connection:
        for command in commands:
            connection.execute(command.encode())


def ask(address: Address, query: str) -> object:
    with address.connect() as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def answers(address: Address) -> object:
    try:
        return ask(address, "select text from public.t")
    except BlockError:
        return None


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def pair(database: Address) -> Generator[tuple[Address, str, str]]:
    """A live database that says `old`, a new one beside it that says `new`; and the name that the old one will get."""
    new, old = f"{database.database}_new", f"{database.database}_old"
    run(database, "create table public.t as select 'old' as text")
    run(database.at("postgres"), f'create database "{new}" template template0')
    run(database.at(new), "create table public.t as select 'new' as text")
    yield database, new, old
    for name in (new, old):
        drop_database(database.at(name))


@pytest.fixture
def plain(pair: tuple[Address, str, str]) -> Generator[Address]:
    """A role that owns both, may create databases and end clients, and no more."""
    live, new, _ = pair
    role = f"plain_{secrets.token_hex(4)}"
    run(
        live.at("postgres"),
        f"create role {role} login createdb password '{ROLE_PASSWORD}' in role pg_signal_backend",
        *(f'alter database "{name}" owner to {role}' for name in (live.database, new)),
    )
    for name in (live.database, new):
        run(live.at(name), f"alter table public.t owner to {role}")
    yield replace(live, user=role, password=ROLE_PASSWORD)
    for name in databases.facts(live).databases:
        if name.startswith(live.database):
            run(live.at(name), f"reassign owned by {role} to postgres")
    run(live.at("postgres"), f"drop role {role}")


@contextmanager
def clients(address: Address, number: int = 4) -> Generator[list[str]]:
    """Clients that ask as fast as they can and come back when they are ended; what they heard, in order."""
    heard, over = list[str](), threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                with address.connect() as connection:
                    while not over.is_set():
                        row = connection.execute("select text from public.t").fetchone()
                        heard.append(str(row and row[0]))
                        over.wait(0.005)
            except Exception:  # noqa: BLE001 - being ended is what a swap does to clients
                over.wait(0.01)

    threads = [threading.Thread(target=client) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_swap_under_live_clients_renames_both_and_no_old_answer_comes_after_a_new_one(
    pair: tuple[Address, str, str], plain: Address
) -> None:
    live, new, old = pair
    with clients(plain) as heard:
        until(lambda: len(heard) > 40)
        databases.swap(plain, live=live.database, new=new, old=old, limit_s=10)
        before = len(heard)
        until(lambda: "new" in heard[before:])
    assert "old" not in heard[heard.index("new") :]
    assert ask(live, "select text from public.t") == "new"
    assert ask(live.at(old), "select text from public.t") == "old"


def test_a_swap_that_dies_between_its_renames_renames_nothing(pair: tuple[Address, str, str]) -> None:
    live, new, old = pair
    waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and query like 'alter database%'"
    with live.at("postgres").connect(autocommit=False) as blocker:
        blocker.execute(f"comment on database \"{new}\" is 'held'".encode())  # the second rename waits for this lock
        swapping = fork(lambda: databases.swap(live, live=live.database, new=new, old=old, limit_s=15))
        until(lambda: bool(ask(live.at("postgres"), waits)))
        os.kill(swapping.pid, signal.SIGKILL)
        assert swapping.ended() == DIED
        blocker.rollback()
    until(lambda: answers(live) == "old")  # once the server has heard of the death
    assert old not in databases.facts(live).databases


def test_clients_that_may_not_be_ended_stop_the_swap_and_nothing_changed(
    pair: tuple[Address, str, str], plain: Address
) -> None:
    live, new, old = pair
    with live.connect() as superuser:
        superuser.execute("select 1")
        with pytest.raises(Refused):
            databases.swap(plain, live=live.database, new=new, old=old, limit_s=1)
        assert {live.database, new} <= set(databases.facts(live).databases)
        assert old not in databases.facts(live).databases
        superuser.execute("select 1")


def test_what_belongs_to_a_database_is_put_on_the_new_one(pair: tuple[Address, str, str]) -> None:
    live, new, _ = pair
    owner, role, name = f"owner_{secrets.token_hex(3)}", f'odd {secrets.token_hex(3)} "한글"', live.database
    quoted = '"' + role.replace('"', '""') + '"'
    run(
        live.at("postgres"),
        f"create role {quoted}",
        f'alter database "{name}" set search_path to \'\', "$user", \'odd, "one"\'',
        f"alter database \"{name}\" set app.secret to 'canary ''quoted'', \\ 100 %'",
        f"alter database \"{name}\" set datestyle to 'ISO, DMY'",
        f"alter database \"{name}\" set work_mem to '7MB'",
        f'alter role {quoted} in database "{name}" set statement_timeout to 1500',
        f'revoke all on database "{name}" from public',
        f'grant connect on database "{name}" to {quoted} with grant option',
        f'grant create, temporary on database "{name}" to {quoted}',
        f'alter database "{name}" connection limit 17',
        f"create role {owner}",
        f'alter database "{name}" owner to {owner}',
    )
    try:
        said = databases.dress_like(live, new, name)
        assert "canary" not in str(said)
        for query in (
            "select json_agg(setconfig order by setrole)::text from pg_db_role_setting s where s.setdatabase = d.oid",
            "select datconnlimit",
            "select pg_get_userbyid(datdba)",
            "select array(select a::text from unnest(datacl) a order by 1)",
        ):
            both = [
                ask(live.at("postgres"), f"select ({query}) from pg_database d where datname = '{each}'")  # noqa: S608
                for each in (name, new)
            ]
            assert both[0] == both[1], query
    finally:
        run(
            live.at("postgres"),
            *(f'alter database "{each}" owner to postgres' for each in (name, new)),
            f"drop owned by {quoted}",
            *(f'alter role {quoted} in database "{each}" reset all' for each in (name, new)),
            *(f'revoke all on database "{each}" from {quoted}' for each in (name, new)),
            f"drop role {quoted}",
            f"drop owned by {owner}",
            f"drop role {owner}",
        )


def test_an_undressed_live_database_leaves_the_defaults(pair: tuple[Address, str, str]) -> None:
    live, new, _ = pair
    run(live.at("postgres"), f'revoke connect on database "{new}" from public')
    said = databases.dress_like(live, new, live.database)
    assert said == ["grant connect to public", "grant temporary to public", "owner postgres"]


def test_a_server_that_would_refuse_the_rename_is_told_beforehand(
    pair: tuple[Address, str, str], plain: Address
) -> None:
    live, _, _ = pair
    role = plain.user
    assert databases.refusal_to_rename(plain, live.database) is None
    assert "maintenance database" in str(databases.refusal_to_rename(live, "postgres"))
    assert databases.refusal_to_rename(live, "nowhere") == "it does not exist"
    run(live.at("postgres"), f"revoke pg_signal_backend from {role}")
    assert databases.refusal_to_rename(plain, live.database) == "the role lacks pg_signal_backend"
    run(live.at("postgres"), f"alter role {role} nocreatedb")
    assert databases.refusal_to_rename(plain, live.database) == "the role lacks CREATEDB"
    run(live.at("postgres"), f'alter database "{live.database}" owner to postgres')
    assert databases.refusal_to_rename(plain, live.database) == "the role does not own it"


def test_settings_that_a_role_may_not_give_are_told_beforehand_and_nothing_is_changed(
    pair: tuple[Address, str, str], plain: Address
) -> None:
    live, new, _ = pair
    name, role = live.database, plain.user
    run(
        live.at("postgres"),
        f"alter database \"{name}\" set work_mem to '7MB'",
        f"alter database \"{name}\" set app.secret to 'canary'",
        f"alter database \"{name}\" set log_min_messages to 'error'",
        f"alter role {role} in database \"{name}\" set work_mem to '8MB'",
        f"alter role postgres in database \"{name}\" set work_mem to '9MB'",
    )
    worn = "select array_agg(s::text order by s::text) from pg_db_role_setting s"
    before = ask(live, worn)
    try:
        refused = databases.settings_refused(plain, name)
        assert sorted(refused) == ["app.secret", "log_min_messages", "work_mem of postgres"]
        assert databases.settings_refused(live, name) == []
        assert ask(live, worn) == before
        run(
            live.at("postgres"),
            f"grant set on parameter app.secret, log_min_messages to {role}",
            f'alter role postgres in database "{name}" reset all',
        )
        assert databases.settings_refused(plain, name) == []
        assert "setting app.secret" in databases.dress_like(plain, new, name)
    finally:
        run(
            live.at("postgres"),
            f"revoke set on parameter app.secret, log_min_messages from {role}",
            *(f'alter role {each} in database "{name}" reset all' for each in (role, "postgres")),
            f'alter role {role} in database "{new}" reset all',
        )


def test_a_plain_role_makes_marks_and_closes_a_database_of_its_own(plain: Address) -> None:
    name = f"{plain.database}_made"
    assert databases.is_open(plain, name) is None
    create_database(plain, name, LOCALE)
    assert databases.mark(plain, name) is None
    databases.set_mark(plain, name, "whole, 'quoted' \\ 한글")
    assert databases.mark(plain, name) == "whole, 'quoted' \\ 한글"
    databases.set_open(plain, name, allow=False)
    assert databases.is_open(plain, name) is False
    databases.set_open(plain, name, allow=True)
    with plain.at(name).connect():
        assert databases.unused(plain, name) == []
    with databases.in_use(plain, name):
        assert databases.unused(plain, name) == []
    until(lambda: databases.unused(plain, name) == [name])
    drop_database(plain.at(name))


@pytest.mark.parametrize(
    ("stored", "names"),
    [('""', [""]), ('"$user", public', ["$user", "public"]), ('"a, ""b""", c', ['a, "b"', "c"]), ("one", ["one"])],
)
def test_a_list_is_read_as_postgres_stores_it(stored: str, names: list[str]) -> None:
    assert databases.quoted_list(stored) == names
