"""A dump takes one instant whole, or fails and leaves nothing running."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.postgres.contents import Table, data_key
from blocks.postgres.desk import part_bytes, tool_error
from blocks.postgres.dump import Progress, dump
from blocks.postgres.dump_jobs import copy_out
from blocks.postgres.pins import statements
from blocks.postgres.snapshot import hold
from blocks.postgres.tools import server_tools, tools_for
from blocks.storage.objects import Place
from blocks.stream import PIECE, unpack
from tests.blocks.trip import (
    IDENTITY,
    PREFIX,
    RECIPIENTS,
    bring_back,
    client,
    folder,
    new_database,
    one,
    run,
    store,
    taken,
)
from tests.parts.postgres import PASSWORD, make_database
from tests.parts.postgres import running as running_cluster
from tests.parts.processes import alive, children, command_lines, eventually, kill, meanwhile, running

BIG = "create table big as select i as id, repeat(md5(i::text), 8) as t from generate_series(1, {}) i"
MANY = 100_000  # about 25 MB: psql takes some tenths of a second
COPYING_BIG = (
    "select 1 from pg_stat_activity where query like 'copy %big%' and state = 'active' and pid <> pg_backend_pid()"
)

DEBIANS = Path("/usr/lib/postgresql/15/bin/pg_dump")


def psql_of(address: Address) -> int | None:
    return running("psql", address.database)


def stopped_psql(address: Address) -> int:
    """The psql that reads, caught and stopped."""
    eventually(lambda: psql_of(address))
    pid = psql_of(address)
    kill(pid, signal.SIGSTOP)
    assert pid
    return pid


def nothing_is_left(address: Address, place: Place, before: set[int]) -> None:
    eventually(lambda: set(children(os.getpid())) <= before)
    query = "select count(*) from pg_stat_activity where application_name = 'the dump'"
    assert one(address, query) == 0
    assert not list(place.open().uploads())


def dumped(address: Address, place: Place) -> None:
    with hold(address, application_name="the dump", lock_wait_s=5) as held:
        store(held, place)


# ---- one instant, whole


def test_sums_agree_while_clients_write(database: Address, tmp_path: Path) -> None:
    pgbench = [client(database).path("pgbench")]
    environment = {**os.environ, **database.environ()}
    subprocess.run(
        [*pgbench, "-i", "-q", "-s", "2", database.database], env=environment, check=True, capture_output=True
    )
    load = [*pgbench, "-n", "-c", "3", "-T", "60", "-b", "tpcb-like", database.database]
    with subprocess.Popen(load, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as clients:
        eventually(lambda: one(database, "select count(*) > 20 from pgbench_history"))
        contents = taken(database, folder(tmp_path))
        clients.terminate()
    with new_database(database, contents) as new:
        assert bring_back(new, contents, folder(tmp_path)).differences == []
        sums = one(
            new,
            "select array[(select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),"
            " (select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history)]",
        )
        assert isinstance(sums, list)
        assert len(set(sums)) == 1  # pyright: ignore[reportUnknownArgumentType]


def test_a_transfer_between_the_reads_of_its_two_tables_is_in_neither(database: Address, tmp_path: Path) -> None:
    """The reader of the first table is stopped amid its rows; the second one is not begun."""
    run(
        database,
        BIG.format(2 * MANY).replace("select", "select 100 as n,"),
        "create table small as select 1 as id, 100 as n",
        "create function transfer() returns void language sql as $$"
        " update public.big set n = n - 1 where id = 1; update public.small set n = n + 1 $$",
    )
    amid = "select 1 from pg_stat_activity where query like 'copy %big%' and wait_event = 'ClientWrite'"
    transferred: list[object] = []

    def transfer() -> None:
        eventually(lambda: one(database, COPYING_BIG))
        psql = stopped_psql(database)
        eventually(lambda: one(database, amid))  # it sends rows that nobody takes
        run(database, "select transfer()")
        transferred.append(one(database, "select (select n from big where id = 1) + (select n from small)"))
        kill(psql, signal.SIGCONT)

    with meanwhile(transfer), hold(database) as held:
        contents = dump(held, folder(tmp_path), PREFIX, RECIPIENTS, tools=client(database), workers=1).contents
    assert transferred == [200]
    with new_database(database, contents) as new:
        assert bring_back(new, contents, folder(tmp_path)).differences == []
        assert one(new, "select array[(select n from big where id = 1), (select n from small)]") == [100, 100]


def test_a_table_truncated_after_the_snapshot_is_whole(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(MANY), "create table victim as select generate_series(1, 1000) as id")
    schema = tmp_path / "store" / PREFIX / "schema.pgc.zst.age"
    truncated: list[float] = []

    def truncate() -> None:
        eventually(schema.exists)
        run(database, "truncate victim, big")
        truncated.append(time.monotonic())

    with meanwhile(truncate):
        with hold(database) as held:
            result = dump(held, folder(tmp_path), PREFIX, RECIPIENTS, tools=client(database), workers=1)
            ended = time.monotonic()
        eventually(lambda: truncated)
    rows = {str(table): found.rows for table, found in result.contents.data()}
    assert rows == {"public.big": MANY, "public.victim": 1000}
    assert truncated[0] > ended


def test_settings_of_role_and_database_do_not_change_the_stream(database: Address, tmp_path: Path) -> None:
    run(
        database,
        "create table t (f float8, d date, i interval, b bytea, z timestamptz, c regclass)",
        "insert into t values (0.1::float8 + 0.2, '2026-01-02', '1 day', 'x', '2026-01-02 03:04+09', 'pg_class')",
    )
    plain = taken(database, folder(tmp_path / "a")).data()[0][1].xxh3_128
    changes = {
        "extra_float_digits": "0", "DateStyle": "'SQL, DMY'", "IntervalStyle": "iso_8601", "bytea_output": "escape",
        "TimeZone": "'Asia/Seoul'", "search_path": "public", "client_encoding": "'EUC_KR'", "lock_timeout": "'1s'",
    }  # fmt: skip
    for name, value in changes.items():
        run(database, f'alter database "{database.database}" set {name} = {value}')
    assert taken(database, folder(tmp_path / "b")).data()[0][1].xxh3_128 == plain


def test_the_globals_hold_settings_with_their_values_and_no_password(database: Address, tmp_path: Path) -> None:
    run(
        database,
        "drop role if exists holder", "create role holder password 'canary-role-password'",
        f"alter database \"{database.database}\" set app.secret = 'it''s'",
        f'alter database "{database.database}" set search_path = "$user", public',
        f"alter role holder in database \"{database.database}\" set work_mem = '8MB'",
    )  # fmt: skip
    taken(database, folder(tmp_path))
    text = opened(folder(tmp_path), "globals.sql.zst.age").decode()
    assert f'alter database "{database.database}" set "app"."secret" to \'it\'\'s\';' in text
    assert f'alter database "{database.database}" set "search_path" to "$user", public;' in text
    assert f'alter role "holder" in database "{database.database}" set "work_mem" to \'8MB\';' in text
    assert "CREATE ROLE holder;" in text
    assert "canary" not in text


def opened(place: Place, key: str) -> bytes:
    pieces: list[bytes] = []
    unpack(place.open().read(PREFIX + key), pieces.append, [IDENTITY])
    return b"".join(pieces)


def test_the_archive_of_large_objects_holds_nothing_else(database: Address, tmp_path: Path) -> None:
    run(
        database,
        'create schema "Other"',
        'create table "Other".t (id serial)',
        'insert into "Other".t values (1)',
        "select lo_create(0)",
    )
    contents = taken(database, folder(tmp_path))
    archive = tmp_path / "blobs.pgc"
    from blocks.stream import unpack

    with archive.open("wb") as file:
        unpack(folder(tmp_path).open().read(f"{PREFIX}blobs.pgc.zst.age"), file.write, [IDENTITY])
    listed = subprocess.run(
        [client(database).path("pg_restore"), "-l", archive], capture_output=True, text=True, check=True
    )
    entries = [line.split()[3] for line in listed.stdout.splitlines() if not line.startswith(";")]
    assert set(entries) == {"BLOB", "BLOBS"}
    assert contents.large_objects.count == 1


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_the_schemas_archive_names_its_tables_in_utf8(database: Address, encoding: str, tmp_path: Path) -> None:
    other = database.at(f"{database.database}_other")
    run(database, f"create database {other.database} template template0 encoding '{encoding}' locale 'C'")
    try:
        run(other, 'create table "caf\u00e9" (t text)')
        taken(other, folder(tmp_path))
    finally:
        run(database, f"drop database {other.database} with (force)")
    archive = opened(folder(tmp_path), "schema.pgc.zst.age")
    listed = subprocess.run([client(database).path("pg_restore"), "-l"], input=archive, capture_output=True, check=True)
    assert " TABLE public caf\u00e9 " in listed.stdout.decode()


def test_progress_and_facts_add_up(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(MANY), "create table small (a integer)")
    seen: list[Progress] = []
    with hold(database) as held:
        tools = client(database)
        result = dump(held, folder(tmp_path), PREFIX, RECIPIENTS, tools=tools, progress=seen.append)
    contents = result.contents
    assert (seen[-1].tables_done, seen[-1].tables) == (2, 2)
    assert contents.totals["rows"] == MANY
    stored = {entry.key: entry.bytes for entry in folder(tmp_path).open().list()}
    assert stored == {PREFIX + found.key: found.bytes for found in contents.objects}
    assert [found.role for found in contents.objects] == ["schema", "globals", "catalogue", "data", "data"]


def test_the_limit_of_the_caller_ends_a_dump(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(10 * MANY))
    before = set(children(os.getpid()))

    def limit() -> None:
        raise Refused("held for too long")

    with pytest.raises(Refused, match="held for too long"), hold(database, application_name="the dump") as held:
        dump(held, folder(tmp_path), PREFIX, RECIPIENTS, tools=client(database), watch=limit)
    nothing_is_left(database, folder(tmp_path), before)


# ---- faults


def test_a_killed_psql_fails_the_dump_and_leaves_nothing(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(MANY))
    before = set(children(os.getpid()))
    with (
        meanwhile(lambda: kill(stopped_psql(database), signal.SIGKILL)),
        pytest.raises(Unreachable, match=r"psql reading public\.big failed"),
    ):
        dumped(database, folder(tmp_path))
    nothing_is_left(database, folder(tmp_path), before)


def test_a_pg_dump_killed_with_half_its_archive_out_fails_the_dump_and_leaves_nothing(
    database: Address, tmp_path: Path
) -> None:
    """A migration's lock keeps pg_dump until its reader is stopped; it writes until the pipe is full, and dies."""
    body = "select 1 -- " + "x" * (2 * PIECE // 20)
    run(
        database,
        "create table t (a integer)",
        *(f"create function f{number}() returns int language sql as $${body}$$" for number in range(20)),
    )
    before = set(children(os.getpid()))
    with hold(database, application_name="the dump") as held, waiting_for("public.t", database) as migration:

        def kill_pg_dump() -> None:
            eventually(lambda: one(database, WAITS_BEHIND))
            pg_dump = running("pg_dump", database.database)
            assert pg_dump
            worker = next(pid for pid in children(os.getpid()) if pg_dump in children(pid))
            kill(worker, signal.SIGSTOP)
            run(database, f"select pg_terminate_backend({migration})")
            eventually(lambda: written(pg_dump) > PIECE // 2)  # the pipe takes no more than twice that
            kill(pg_dump, signal.SIGKILL)
            kill(worker, signal.SIGCONT)

        with (
            meanwhile(kill_pg_dump),
            pytest.raises(Unreachable, match=r"^pg_dump of the schema failed: it ended with -9, without a word$"),
        ):
            dump(held, folder(tmp_path), PREFIX, RECIPIENTS, tools=client(database), workers=1)
    nothing_is_left(database, folder(tmp_path), before)
    assert not [entry for entry in folder(tmp_path).open().list() if "schema" in entry.key]


@contextlib.contextmanager
def waiting_for(table: str, address: Address) -> Generator[int]:
    """A migration that waits for its lock on a table that others read; its backend's pid."""
    with contextlib.closing(address.open()) as connection:
        connection.pgconn.send_query(f"begin; lock table {table} in access exclusive mode".encode())
        pid = connection.info.backend_pid
        eventually(lambda: one(address, f"select cardinality(pg_blocking_pids({pid})) > 0"))
        yield pid


WAITS_BEHIND = "select 1 from pg_locks where mode = 'AccessShareLock' and not granted"


def written(pid: int) -> int:
    """Bytes that a process wrote to pipes and files."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).split()[1])


def test_a_killed_worker_fails_the_dump_and_leaves_nothing(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(MANY))
    before = set(children(os.getpid()))

    def kill_worker() -> None:
        psql = stopped_psql(database)
        worker = next(pid for pid in children(os.getpid()) if psql in children(pid))
        kill(worker, signal.SIGKILL)

    with meanwhile(kill_worker), pytest.raises(Unreachable, match="a worker process died"):
        dumped(database, folder(tmp_path))
    eventually(lambda: set(children(os.getpid())) <= before)
    eventually(lambda: psql_of(database) is None)


def test_a_database_that_dies_fails_the_dump(tmp_path: Path) -> None:
    cluster_of_its_own = running_cluster(server_tools(17))
    cluster: Cluster = next(cluster_of_its_own)
    try:
        address = make_database(cluster)
        run(address, BIG.format(MANY))
        before = set(children(os.getpid()))

        def crash() -> None:
            psql = stopped_psql(address)
            kill(int((cluster.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
            kill(psql, signal.SIGCONT)

        with meanwhile(crash), pytest.raises(Unreachable):
            dumped(address, folder(tmp_path))
        eventually(lambda: set(children(os.getpid())) <= before)
        assert not list(folder(tmp_path).open().uploads())
    finally:
        cluster_of_its_own.close()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('pg_dumpall: error: could not connect to database "app"', Unreachable),
        ("pg_dump: error: connection to server failed: Connection refused", Unreachable),
        ("psql: FATAL:  57P01: terminating connection due to administrator command", Unreachable),
        ("pg_dump: error: permission denied for table hidden", Refused),
    ],
)
def test_a_tool_that_lost_its_server_may_come_right_and_one_that_was_refused_not(
    said: str, kind: type[Exception]
) -> None:
    assert type(tool_error("it", 1, io.BytesIO(said.encode()))) is kind


def test_a_connection_that_is_ended_fails_the_dump(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(6 * MANY))
    end = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'copy %big%' and state = 'active'"
    with (
        meanwhile(lambda: eventually(lambda: one(database, f"{end} and pid <> pg_backend_pid()"))),
        pytest.raises(Unreachable, match="terminating connection"),
    ):
        dumped(database, folder(tmp_path))


def test_the_death_of_the_parent_ends_its_workers_and_their_tools(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(MANY))
    place = folder(tmp_path)
    values = json.dumps([database.to_json(), place.folder, PREFIX, RECIPIENTS])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as parent:
        assert parent.stdin
        parent.stdin.write(values)
        parent.stdin.close()
        psql = stopped_psql(database)
        workers = children(parent.pid)
        parent.kill()
        eventually(lambda: not any(map(alive, workers)))
        assert not alive(psql)
    eventually(lambda: not list(place.open().uploads()))


PARENT = """
import json, sys
from blocks.postgres.address import Address
from blocks.postgres.dump import dump
from blocks.postgres.snapshot import hold
from blocks.postgres.tools import tools_for
from blocks.storage.objects import DirectoryPlace
address, folder, prefix, recipients = json.load(sys.stdin)
with hold(Address.from_json(address)) as held:
    dump(held, DirectoryPlace(folder=folder), prefix, recipients, tools=tools_for(17))
"""


def test_no_secret_is_on_a_command_line(database: Address, tmp_path: Path) -> None:
    run(database, BIG.format(MANY // 2), "create table small (a integer)", "select lo_create(0)")
    ended: list[bool] = []
    seen: set[str] = set()

    def sample() -> None:
        while not ended:
            seen.update(" ".join(arguments) for arguments in command_lines().values())
            time.sleep(0.005)

    with meanwhile(sample):
        try:
            contents = taken(database, folder(tmp_path))
            with new_database(database, contents) as new:
                bring_back(new, contents, folder(tmp_path))
        finally:
            ended.append(True)
    assert any("pg_restore" in line for line in seen)
    assert any("psql" in line and database.database in line for line in seen)
    secrets = (PASSWORD, IDENTITY)
    assert not [line for line in seen if any(secret in line for secret in secrets)]


@pytest.mark.skipif(not DEBIANS.exists(), reason="the client tools of Debian's postgresql-15 are not installed")
def test_a_server_newer_than_the_tools_is_refused() -> None:
    with pytest.raises(Refused, match=r"server is 17, the newest pg_dump .* is 15"):
        tools_for(17, str(DEBIANS.parent))


# ---- small rules


def test_a_long_or_odd_name_makes_a_safe_key() -> None:
    assert data_key(12, "public", "videos") == "data/00012.public.videos.copy.zst.age"
    assert data_key(0, "a/b", "한.c") == "data/00000.a%2Fb.%ED%95%9C%2Ec.copy.zst.age"
    long = [data_key(1, "한" * 21, "글" * 20 + end) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(key.removeprefix("data/")) < 255 - 20 for key in long)


def test_a_huge_table_gets_bigger_parts() -> None:
    assert part_bytes(0) == part_bytes(30 << 30) == 8 << 20
    assert part_bytes(100 << 30) == 23 << 20


def test_the_columns_are_always_written_out() -> None:
    assert (
        copy_out(Table("s", 'a"b', ("x", "y z")), "UTF8")
        == """copy "s"."a""b" ("x", "y z") to stdout (encoding 'UTF8')"""
    )
    assert copy_out(Table("s", "t", ()), "UTF8") == """copy "s"."t" to stdout (encoding 'UTF8')"""
    assert copy_out(Table("s", "t", ("x",), condition="where x"), "LATIN1") == (
        """copy (select "x" from only "s"."t" where x) to stdout (encoding 'LATIN1')"""
    )


def test_a_pin_unknown_to_the_server_is_left_out() -> None:
    assert not [line for line in statements({}, 150000) if "transaction_timeout = " in line and "idle" not in line]
    assert [line for line in statements({}, 170000) if line.startswith("set transaction_timeout")]


def test_what_a_role_may_not_read_fails_before_any_object_is_stored(database: Address, tmp_path: Path) -> None:
    run(database, "create table t (a integer)", "drop role if exists blind", "create role blind login password 'x'")
    blind = replace(database, user="blind", password="x")
    with pytest.raises(Refused, match=r"may not read public\.t"):
        dumped(blind, folder(tmp_path))
    assert not list(folder(tmp_path).open().list())
