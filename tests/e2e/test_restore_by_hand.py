"""The runbook's scripts, as they are printed there, with Debian's tools on a backup of Debian's Postgres 15."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Generator, Mapping
from pathlib import Path

import psycopg
import pytest

from blocks.postgres.address import Address
from blocks.postgres.catalogue import lines
from blocks.postgres.load import make_roles
from flows.backup.flow import backup
from flows.catalogue.layout import home_of
from flows.world import World
from tests.flows.conftest import environ, glass, ledger_database, world
from tests.parts.postgres import drop_database

__all__ = ["environ", "glass", "ledger_database", "world"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs" / "runbooks" / "restore.md"
KINDS = ROOT / "tests" / "blocks" / "kinds.sql"
BIN = Path("/usr/lib/postgresql/15/bin")
TOOLS = ("age", "zstd", "jq", "openssl", "sha256sum", "bash", "psql", "pg_restore")
ROWS = """select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' order by 1"""

LATIN = """select getdatabaseencoding(), daticulocale, t.* from pg_database, public."caf\u00e9 \u00fc" t
    where datname = %s"""


def script(name: str) -> str:
    """The fenced block of the runbook whose first line names this file."""
    found = re.findall(
        rf"^```sh\n(# {re.escape(name)}\n.*?)^```$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(found) == 1, f"{RUNBOOK.name} should hold one block that begins with `# {name}`"
    return found[0]


@pytest.fixture
def tools() -> dict[str, str]:
    """An environment that finds Debian's tools and nothing of ours."""
    path = f"{BIN}:/usr/bin:/bin"
    for name in TOOLS:
        if not shutil.which(name, path=path):
            pytest.skip(f"{name} is not installed")
    return {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/")}


@pytest.fixture
def database(database15: Address, request: pytest.FixtureRequest) -> Generator[Address]:
    """The source: every kind of object that Postgres 15 has; or, as "latin", another encoding and another provider."""
    make_roles(database15, ["reader"])
    if getattr(request, "param", "") == "latin":
        latin = database15.at(f"{database15.database}_latin")
        do(
            database15,
            f"create database {latin.database} template template0 encoding 'LATIN1' locale 'C' "
            "locale_provider icu icu_locale 'de-DE'",
        )
        do(
            latin,
            'create table "caf\u00e9 \u00fc" ("\u00e9" text)',
            "insert into \"caf\u00e9 \u00fc\" values ('na\u00efve')",
        )
        yield latin
        drop_database(latin)
        return
    do(
        database15,
        KINDS.read_text(encoding="utf-8"),
        "create table videos (id bigint primary key, title text, seen interval, paid money)",
        "insert into videos select i, repeat('\uc601\uc0c1 ' || i, 20), i * interval '-90 min', i::numeric::money "
        "from generate_series(1, 20000) i",
        "delete from videos where id % 7 = 0",
        f"alter database {database15.database} set intervalstyle = 'sql_standard'",
    )
    yield database15


@pytest.fixture
def folder(world: World, glass: None, tmp_path: Path) -> Path:
    """A backup taken by the flow, its objects fetched as anybody would: a folder with the backup's id as its name."""
    backup("test", "daily")
    taken, objects = world.ledger.backups()[-1], world.store.objects()
    home, place = home_of(world.stage).of(taken.id), tmp_path / taken.id
    for entry in objects.list(home):
        file = place / entry.key.removeprefix(home)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(objects.get(entry.key))
    return place


@pytest.fixture
def hands(database: Address, environ: dict[str, str], tools: dict[str, str]) -> Generator[dict[str, str]]:
    """What the runbook tells to export."""
    server = {
        name: value
        for name, value in database.environ().items()
        if name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD")
    }
    new = f"{database.database}_by_hand"
    keys = {"BACKUP_VERIFYING_KEYS": environ["BACKUP_VERIFYING_KEYS"], "IDENTITY": environ["RESTORE_IDENTITY_FILE"]}
    yield {**tools, **server, **keys, "NEW": new}
    drop_database(database.at(new))


def by_hand(name: str, folder: Path, hands: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    file = folder.parent / name
    file.write_text(script(name))
    return subprocess.run(
        ["bash", file], cwd=folder, env=dict(hands), capture_output=True, text=True, check=False, timeout=240
    )


def contents(address: Address) -> dict[str, object]:
    """Every table's rows in their order, the large objects and the sequences."""
    with address.connect() as connection:
        connection.execute("set intervalstyle = 'postgres'")
        names = [name for (name,) in connection.execute(ROWS).fetchall()]
        found: dict[str, object] = {
            name: _rows(connection, f"select to_jsonb(t)::text from only {name} t")  # noqa: S608 - quoted by format()
            for name in names
        }
        found["large objects"] = _rows(connection, "select oid, lo_get(oid) from pg_largeobject_metadata order by oid")
        found["sequences"] = _rows(
            connection, "select schemaname, sequencename, last_value from pg_sequences order by 1, 2"
        )
    return found


def _rows(connection: psycopg.Connection, query: str) -> list[tuple[object, ...]]:
    return connection.execute(query.encode()).fetchall()


def do(address: Address, *statements: str) -> None:
    with address.open() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def schema(address: Address) -> list[str]:
    with address.connect() as connection:
        return lines(connection)


def test_the_backup_comes_back_with_stock_tools_alone(folder: Path, hands: dict[str, str], database: Address) -> None:
    done = by_hand("restore-by-hand.sh", folder, hands)
    assert done.returncode == 0, done.stderr
    new = database.at(hands["NEW"])
    assert contents(new) == contents(database)
    assert schema(new) == schema(database)
    assert f"is restored as {new.database}" in done.stdout
    with new.connect() as connection:
        assert connection.execute("select count(*) from public.ages").fetchone() == (10,)


@pytest.mark.parametrize("database", ["latin"], indirect=True)
def test_another_encoding_and_locale_come_back(folder: Path, hands: dict[str, str], database: Address) -> None:
    done = by_hand("restore-by-hand.sh", folder, hands)
    assert done.returncode == 0, done.stderr
    with database.at(hands["NEW"]).connect() as connection:
        row = connection.execute(LATIN.encode(), [hands["NEW"]]).fetchone()
        assert row == ("LATIN1", "de-DE", "na\u00efve")


def test_every_table_reads_back_as_it_was_dumped(folder: Path, hands: dict[str, str], database: Address) -> None:
    if not shutil.which("xxh128sum", path=hands["PATH"]):
        pytest.skip("xxh128sum is not installed")
    assert by_hand("restore-by-hand.sh", folder, hands).returncode == 0
    same = by_hand("compare-by-hand.sh", folder, hands)
    assert (same.returncode, same.stdout, same.stderr) == (0, "every table reads as it was dumped\n", "")
    with database.at(hands["NEW"]).connect() as connection:
        connection.execute("update public.videos set title = 'x' where id = 9")
    other = by_hand("compare-by-hand.sh", folder, hands)
    assert other.returncode == 1
    assert '"public"."videos": its text differs' in other.stderr


def test_what_was_tampered_with_is_refused_before_anything_is_made(
    folder: Path, hands: dict[str, str], database: Address
) -> None:
    manifest, data = folder / "manifest.json", max(folder.glob("data/*"), key=lambda file: file.stat().st_size)
    good = {file: file.read_bytes() for file in (manifest, data)}
    damage = {
        manifest: (good[manifest].replace(b'"rows":', b'"rows":1', 1), "is not signed by any"),
        data: (bytes([good[data][0] ^ 1]) + good[data][1:], "did NOT match"),
    }
    for file, (altered, sentence) in damage.items():
        file.write_bytes(altered)
        done = by_hand("restore-by-hand.sh", folder, hands)
        file.write_bytes(good[file])
        assert done.returncode != 0
        assert sentence in done.stderr
    moved = folder.rename(folder.with_name("20261124T020000Z-daily-k3v9q2"))
    assert "another backup" in by_hand("restore-by-hand.sh", moved, hands).stderr
    with database.connect() as connection:
        query = "select count(*) from pg_database where datname = %s"
        assert connection.execute(query, [hands["NEW"]]).fetchone() == (0,)


def test_the_swap_by_hand_renames_both_under_a_live_client(
    hands: dict[str, str], database: Address, tmp_path: Path
) -> None:
    live, old = database, database.at(f"{database.database}_old")
    with live.connect() as connection:
        connection.execute(f"create database {hands['NEW']}".encode())
    client, ended = live.connect(), threading.Event()
    threading.Thread(target=_work_until_ended, args=[client, ended]).start()
    done = by_hand("swap-by-hand.sh", tmp_path, {**hands, "LIVE": live.database, "OLD": old.database})
    try:
        assert done.returncode == 0, done.stderr
        assert ended.wait(10)
        with live.connect() as connection:
            assert connection.execute("select to_regclass('public.videos')").fetchone() == (None,)
        with live.at("postgres").connect() as connection:
            query = "select datallowconn from pg_database where datname = %s"
            assert connection.execute(query, [old.database]).fetchone() == (False,)
    finally:
        drop_database(old)


def _work_until_ended(client: psycopg.Connection, ended: threading.Event) -> None:
    try:
        while True:
            client.execute("select pg_sleep(0.05)")
    except psycopg.OperationalError:
        ended.set()
