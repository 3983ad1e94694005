import os
import socket
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from blocks.errors import BlockError, Missing, Refused, Unreachable
from blocks.postgres.address import Address, said, translate
from blocks.postgres.cluster import Cluster, free_port
from blocks.postgres.tools import Tools, tools_for
from tests.parts.postgres import PASSWORD, drop_database, make_database

ODD_NAMES = ["한국어 영상", 'it\'s "quoted"', "a=b host=evil", "postgres://x@y/z", "back\\slash", "UPPER lower"]


def psql(address: Address, question: str, *more: str) -> str:
    command = [tools_for(17).path("psql"), "-XAtq", *more, "-c", question]
    return subprocess.run(
        command, env={**os.environ, **address.environ()}, check=True, capture_output=True, text=True
    ).stdout


def refused(address: Address) -> BlockError:
    with pytest.raises(BlockError) as caught:
        address.connect()
    return caught.value


def error_of(address: Address, statement: str) -> BlockError:
    with address.connect() as connection, pytest.raises(BlockError) as caught, said("asking"):
        connection.execute(statement.encode())
    return caught.value


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_database_name_is_entered_by_psycopg_and_by_the_tools(postgres17: Cluster, name: str) -> None:
    address = make_database(postgres17, name)
    try:
        with address.connect() as connection:
            assert connection.execute("select current_database()").fetchone() == (name,)
        assert psql(address, "select current_database()") == f"{name}\n"
        assert psql(address, "select current_database()", "-d", address.argument) == f"{name}\n"
    finally:
        drop_database(address)


@pytest.mark.parametrize(
    "password", [PASSWORD, "'; drop role x; --", "%41:@/", "\\\\'\\", " leading and trailing ", "é\t한"]
)
def test_any_password_lets_its_role_in(database: Address, password: str) -> None:
    with database.connect() as connection:
        connection.execute("drop role if exists odd")
        connection.execute(sql.SQL("create role odd login password {}").format(password))
    as_odd = Address(database.host, database.port, "odd", password, database.database)
    with as_odd.connect() as connection:
        assert connection.execute("select current_user").fetchone() == ("odd",)
    assert psql(as_odd, "select current_user") == "odd\n"


def test_the_password_is_in_no_repr_and_no_command_line(database: Address) -> None:
    child = subprocess.Popen(
        [tools_for(17).path("psql"), "-Xc", "select pg_sleep(30)"], env={**os.environ, **database.environ()}
    )
    try:
        assert PASSWORD.encode() not in Path(f"/proc/{child.pid}/cmdline").read_bytes()
    finally:
        child.kill()
        child.wait()
    assert PASSWORD not in f"{database!r} {database}"


def test_a_wrong_password_is_refused_without_being_named(database: Address) -> None:
    wrong = Address(database.host, database.port, database.user, "canary-wrong", database.database)
    error = refused(wrong)
    assert isinstance(error, Refused)
    assert "role or password are wrong" in str(error)
    assert "canary" not in str(error)


def test_an_absent_database_is_missing(database: Address) -> None:
    assert isinstance(refused(database.at("nowhere")), Missing)


def test_a_closed_port_is_unreachable(database: Address) -> None:
    closed = Address("127.0.0.1", free_port(), "u", "p", "d")
    assert str(refused(closed)) == f"entering d at 127.0.0.1:{closed.port}: nothing answers there"
    assert isinstance(refused(closed), Unreachable)


def test_a_database_closed_to_connections_is_worth_asking_again(database: Address) -> None:
    with database.at("postgres").connect() as connection:
        connection.execute(f"alter database {database.database} allow_connections false".encode())
    assert isinstance(refused(database), Unreachable)


def test_a_socket_that_never_speaks_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        address = Address("127.0.0.1", silent.getsockname()[1], "u", "p", "d", connect_timeout_s=2)
        assert isinstance(refused(address), Unreachable)
    assert time.monotonic() - began < 5


def test_a_server_that_falls_silent_after_the_log_in_is_given_up_in_time() -> None:
    greeting = b"R\0\0\0\x08\0\0\0\0" + b"K\0\0\0\x0c\0\0\0\1\0\0\0\1" + b"Z\0\0\0\x05I"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1], "u", "p", "d", sslmode="disable", connect_timeout_s=2)
        began = time.monotonic()
        code = (
            f"import socket; s = socket.socket(fileno={server.fileno()}); c, _ = s.accept(); c.recv(999); "
            f"c.send({greeting!r}); input()"
        )
        child = subprocess.Popen(["python3", "-c", code], pass_fds=[server.fileno()], stdin=subprocess.PIPE)
        with child:
            try:
                assert isinstance(refused(address), Unreachable)
            finally:
                child.kill()
    assert time.monotonic() - began < 6


def test_a_connection_has_no_search_path_and_the_time_out_asked_for(database: Address) -> None:
    with database.connect(statement_timeout_s=1.5, application_name="probe") as connection:
        shown = [
            connection.execute(f"show {what}".encode()).fetchone() for what in ("search_path", "statement_timeout")
        ]
        assert shown == [("",), ("1500ms",)]
        assert connection.execute(
            "select application_name from pg_stat_activity where pid = pg_backend_pid()"
        ).fetchone() == ("probe",)


def test_without_autocommit_the_first_statement_begins_the_transaction(database: Address) -> None:
    with database.connect(autocommit=False) as connection:
        connection.execute("set transaction isolation level repeatable read read only")  # 25001 after any query
        connection.execute("select 1")


def test_a_statement_beyond_its_time_is_worth_asking_again(database: Address) -> None:
    with (
        database.connect(statement_timeout_s=0.1) as connection,
        pytest.raises(Unreachable, match="57014"),
        said("sleeping"),
    ):
        connection.execute("select pg_sleep(5)")


def test_a_killed_session_is_worth_asking_again(database: Address) -> None:
    assert isinstance(error_of(database, "select pg_terminate_backend(pg_backend_pid())"), Unreachable)


def test_a_missing_right_is_named(database: Address) -> None:
    with database.connect() as connection:
        connection.execute("create table public.salaries (x int)")
    error = error_of(database, "set role pg_monitor; select * from public.salaries")
    assert isinstance(error, Refused)
    assert str(error) == "asking: permission denied for table salaries (SQLSTATE 42501): grant it to this role"


@pytest.mark.parametrize(
    "statement",
    [
        "select 'canary'::int",
        "do $$ begin raise exception 'canary'; end $$",
        "select 1 from 'canary'",
        "select 'canary'::jsonb",
        "create table public.t (x text primary key); insert into public.t values ('canary'), ('canary')",
    ],
)
def test_no_value_of_the_database_is_in_an_error(database: Address, statement: str) -> None:
    error = error_of(database, statement)
    assert isinstance(error, Refused)
    assert "canary" not in str(error)


def test_an_error_of_psycopgs_own_is_refused_without_its_text() -> None:
    assert (
        str(translate(psycopg.ProgrammingError("canary"), "asking"))
        == "asking: psycopg refused it with ProgrammingError"
    )


def test_a_url_gives_the_address() -> None:
    address = Address.of_url("postgresql://keeper:p%40ss@db.example:6000/%ED%95%9C?sslmode=require&application_name=x")
    assert address == Address("db.example", 6000, "keeper", "p@ss", "한", "require")


@pytest.mark.parametrize("host", ["db.example", "2001:db8::1", "/run/a socket?/한"])
def test_the_url_of_an_address_gives_it_back(host: str) -> None:
    address = Address(host, 6000, "kee/per", PASSWORD, "a=b ?&#%", "verify-full", "/etc/ca &.pem", 7)
    assert Address.of_url(address.url()) == address


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:canary@h:port/d", "postgresql://u:canary@[::1/d", "canary", "postgresql://u:canary@h/d?x=canary"],
)
def test_a_url_that_is_none_is_never_repeated(url: str) -> None:
    with pytest.raises(Refused) as caught:
        Address.of_url(url)
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_url_with_an_option_that_is_not_carried_is_refused_by_its_name() -> None:
    with pytest.raises(Refused, match="asks for options, target_session_attrs"):
        Address.of_url("postgresql://u:p@h/d?options=-csearch_path%3Dx&target_session_attrs=any")


def test_an_address_survives_a_workers_pipe(database: Address) -> None:
    assert Address.from_json(database.to_json()) == database


def test_what_the_operators_shell_holds_leads_nowhere_else(database: Address) -> None:
    stray = {
        "PGHOSTADDR": "203.0.113.1",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PGTARGETSESSIONATTRS": "standby",
    }
    command = [tools_for(17).path("psql"), "-XAtqc", "show default_transaction_read_only"]
    done = subprocess.run(command, env={**os.environ, **stray, **database.environ()}, check=True, capture_output=True)
    assert done.stdout == b"off\n"


def tls_cluster(folder: Path, tools: Tools) -> Cluster:
    cluster = Cluster.create(folder, tools, port=free_port(), tls=True)
    cluster.start()
    return cluster


def test_verify_full_trusts_the_clusters_ca_and_no_other(tmp_path: Path) -> None:
    ours, other = (tls_cluster(tmp_path / name, tools_for(17)) for name in ("ours", "other"))
    try:
        with ours.address().connect() as connection:
            assert connection.info.pgconn.ssl_in_use
        wrong = Address.from_json({**ours.address().to_json(), "sslrootcert": str(other.ca)})
        error = refused(wrong)
        assert isinstance(error, Refused)
        assert "certificate is not trusted" in str(error)
        plain = Address.from_json({**ours.address().to_json(), "sslmode": "disable"})
        assert isinstance(refused(plain), Refused)
    finally:
        ours.stop()
        other.stop()
