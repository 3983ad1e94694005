"""The sample service's migrations: numbered SQL files; a first line `-- breaking` says that the release before fails.

    python migrate.py status   exit 0: none pending, 1: some are     python migrate.py up     apply them
    python migrate.py list     all as JSON, oldest first             python migrate.py down VERSION

A file NAME.down.sql beside NAME.sql is its way back.
"""

import json
import os
import sys
from pathlib import Path

import psycopg

FOLDER = Path(__file__).parent / "migrations"
TABLE = "create table if not exists public.schema_migrations (version text primary key, at timestamptz default now())"


def files() -> list[Path]:
    """Oldest first."""
    return sorted(each for each in FOLDER.glob("*.sql") if not each.name.endswith(".down.sql"))


def way_back(file: Path) -> Path:
    """The file that undoes it."""
    return file.with_name(f"{file.stem}.down.sql")


def listing() -> list[dict[str, object]]:
    """The shape that the stage's TOML asks for."""
    return [
        {
            "version": file.stem,
            "breaking": file.read_text().startswith("-- breaking"),
            "rollback": way_back(file).exists(),
        }
        for file in files()
    ]


def applied_in(connection: psycopg.Connection) -> set[str]:
    """Asking changes nothing: a database without the table has none."""
    there = connection.execute("select to_regclass('public.schema_migrations') is not null").fetchone()
    found = connection.execute("select version from public.schema_migrations") if there and there[0] else ()
    return {str(row[0]) for row in found}


def main(what: str, *to: str) -> int:
    """The exit code."""
    if what == "list":
        print(json.dumps(listing()))
        return 0
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        applied = applied_in(connection)
        pending = [file for file in files() if file.stem not in applied]
        if what == "status":
            return 1 if pending else 0
        connection.execute(TABLE)
        if what == "up":
            for file in pending:
                connection.execute(file.read_bytes())
                connection.execute("insert into public.schema_migrations (version) values (%s)", [file.stem])
            return 0
        for file in reversed([each for each in files() if each.stem in applied and each.stem > to[0]]):
            connection.execute(way_back(file).read_bytes())
            connection.execute("delete from public.schema_migrations where version = %s", [file.stem])
        return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
