"""A backup into an empty database of our own, and the comparison that says whether it is the same.

The invariant: each table is filled whole or empty, and only what was compared is kept. A database that `load` did not
finish says so in its comment; only the caller's mark, set after `read_back` found no difference, makes it whole.
It never touches a database that holds anything else, and never drops one unasked.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from blocks.errors import Refused
from blocks.postgres.address import Address, said
from blocks.postgres.contents import Contents, StoredObject, Table
from blocks.postgres.crew import Crew, Job, Watch
from blocks.postgres.dump import FIRST, Meter, Progress, ignored, unwatched
from blocks.postgres.pins import ident, literal, qualified, rows, run
from blocks.postgres.tools import Tools
from blocks.storage.objects import Place

INCOMPLETE = "shipkeeper: incomplete, "
PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
STEPS = ("begun", "tables made", "rows loaded", "indexes begun", "indexes built")


@dataclass(frozen=True)
class Loaded:
    """What was brought in; `kept` tables were there, and equal, before. `seconds` by step."""

    tables: int
    kept: int
    rows: int
    plain_bytes: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the backup says, without values of rows. Not grave: the same rows in another order."""

    what: str
    wanted: str
    found: str
    grave: bool = True


@dataclass(frozen=True)
class Compared:
    """What read_back found; equal when there is no grave difference. `lacks`: what could not be checked here."""

    differences: tuple[Difference, ...]
    lacks: tuple[str, ...]
    tables: int
    rows: int
    seconds: Mapping[str, float]


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)


# ---- databases


def create_database(
    address: Address, name: str, facts: Mapping[str, Any], *, application_name: str = "shipkeeper"
) -> None:
    """Create an empty database, closed to the public, with the encoding and locale of `facts` (the manifest's).

    Its owner and superusers may enter. Refused when the name is taken or this server lacks the locale.
    """
    with _maintenance(address, application_name) as connection, said(f"creating the database {name}"):
        run(connection, f"create database {ident(name)} template template0 {_locale(facts)}")
        run(connection, f"revoke connect on database {ident(name)} from public")


def drop_database(address: Address, name: str, *, application_name: str = "shipkeeper") -> None:
    """Drop a database with whoever is in it; absent is fine."""
    with _maintenance(address, application_name) as connection, said(f"dropping the database {name}"):
        run(connection, f"drop database if exists {ident(name)} with (force)")


def make_roles(address: Address, names: Sequence[str], *, application_name: str = "shipkeeper") -> list[str]:
    """In a scratch server: the roles that policies name, without login. Gives those that were made."""
    with _maintenance(address, application_name) as connection, said("making roles"):
        there = {name for (name,) in rows(connection, "select rolname from pg_roles")}
        missing = [name for name in names if name not in there]
        for name in missing:
            run(connection, f"create role {ident(name)} nologin")
    return missing


def _locale(facts: Mapping[str, Any]) -> str:
    options = {"encoding": facts["encoding"], "lc_collate": facts["collate"], "lc_ctype": facts["ctype"]}
    provider = PROVIDERS[facts["provider"]]
    if provider != "libc":
        options[f"{provider}_locale"] = facts["locale"]
    if facts.get("icu_rules"):
        options["icu_rules"] = facts["icu_rules"]
    shown = " ".join(f"{name} {literal(str(value))}" for name, value in options.items())
    return f"locale_provider {provider} {shown}"


@contextmanager
def _maintenance(address: Address, application_name: str) -> Generator[psycopg.Connection]:
    with closing(address.at("postgres").connect(application_name=application_name)) as connection:
        yield connection


# ---- load


def crew_for(  # noqa: PLR0913 - options by keyword, each with a default
    address: Address,
    contents: Contents,
    place: Place,
    prefix: str,
    identities: Sequence[str],
    *,
    tools: Tools,
    workers: int = 2,
    application_name: str = "shipkeeper",
) -> Crew:
    """Workers for both load and read_back, used with `with`: another one, or a larger one, costs its start."""
    with closing(address.connect(application_name=application_name)) as connection:
        version = connection.info.server_version
    orders = {
        "address": address.to_json(),
        "place": place.to_json(),
        "prefix": prefix,
        "bin": str(tools.bin),
        "tools_major": tools.major,
        "application_name": application_name,
        "pinned": dict(contents.pinned),
        "server_version_num": version,
        "identities": list(identities),
    }
    return Crew(orders, min(workers, len(contents.data()) + len(_blob_jobs(contents))))


def load(  # noqa: PLR0913 - options by keyword, each with a default
    address: Address,
    contents: Contents,
    crew: Crew,
    *,
    parallel: int = 2,
    keep: Sequence[str] = (),
    application_name: str = "shipkeeper",
    progress: Callable[[Progress], None] = ignored,
    watch: Callable[[], None] = unwatched,
) -> Loaded:
    """Fill the empty database at address; run again after a death it goes on where rows were loaded.

    `parallel` is for building indexes, `keep` what of "owner" and "privileges" is restored (their roles must exist).
    Raises Garbled when bytes are not those of the backup, Refused when the database holds anything else or was left
    while its tables or indexes were made: drop it and start over.
    """
    clock = _Clock()
    data = contents.data()
    watching = _watching(progress, watch, data, "load_table")
    with closing(address.connect(application_name=application_name)) as connection:
        stage = _Stage(connection)
        schema = _demanded(contents, "schema")
        if stage.reached < STEPS.index("tables made"):
            with clock.step("tables"):
                stage.reach("begun")
                crew.run([_section("pre-data", schema, 1, keep), Job("open_store", {})], watching)
                stage.reach("tables made")
        with clock.step("rows"):
            results = crew.run([*_blob_jobs(contents), *_data_jobs("load_table", data)], watching)
            _set_sequences(connection, contents)
        if stage.reached < STEPS.index("indexes begun"):
            with clock.step("indexes"):
                stage.reach("indexes begun")
                crew.run([_section("post-data", schema, parallel, keep)], watching)
                stage.reach("indexes built")
        with clock.step("analyze"):
            crew.run([Job("analyze", {})], watching)
    kept = sum(bool(result.get("kept")) for result in results)
    return Loaded(len(data), kept, contents.totals["rows"], contents.totals["plain_bytes"], clock.seconds)


class _Stage:
    """How far an earlier load of this database came, kept in its comment."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection, self._name = connection, connection.info.dbname
        name = self._name
        with said(f"looking into {name}"):
            comment = rows(connection, _COMMENT)[0][0] or ""
            used = rows(connection, USED)[0][0]
        step = comment.removeprefix(INCOMPLETE)
        if comment and step not in STEPS:
            raise Refused(f"{name} is not a database that a restore left: its comment says {comment[:80]!r}")
        if step in ("begun", "indexes begun") or (used and not comment):
            raise Refused(f"{name} is not empty{', a restore died in it' if comment else ''}: drop it and start over")
        self.reached = STEPS.index(step) if step else -1

    def reach(self, step: str) -> None:
        with said(f"writing the comment of {self._name}"):
            run(self._connection, f"comment on database {ident(self._name)} is {literal(INCOMPLETE + step)}")
        self.reached = STEPS.index(step)


def _watching(
    progress: Callable[[Progress], None],
    watch: Callable[[], None],
    data: Sequence[tuple[Table, StoredObject]],
    counted: str,
) -> Watch:
    meter = Meter(progress, len(data), sum(found.plain_bytes for _, found in data), counted)
    return Watch(watch, meter.moved, meter.ended)


def _demanded(contents: Contents, role: str) -> StoredObject:
    if found := contents.one(role):
        return found
    raise Refused(f"this backup lists no {role} object: it cannot be restored")


def _section(section: str, schema: StoredObject, parallel: int, keep: Sequence[str]) -> Job:
    how = {"section": section, "parallel": parallel, "keep": list(keep)}
    return Job("load_section", {"stored": {"key": schema.key, "sha256": schema.sha256}, **how})


def _blob_jobs(contents: Contents) -> list[Job]:
    blobs = contents.one("blobs")
    if blobs is None:
        return []
    large = {"count": contents.large_objects.count, "xxh3_128": contents.large_objects.xxh3_128}
    return [Job("load_blobs", {"key": blobs.key, "sha256": blobs.sha256, **large}, FIRST)]


def _data_jobs(what: str, data: Sequence[tuple[Table, StoredObject]]) -> list[Job]:
    return [
        Job(
            what,
            {"table": table.to_json(), "stored": {**stored.to_json(), "parts": []}},
            stored.plain_bytes,
        )
        for table, stored in data
    ]


def _set_sequences(connection: psycopg.Connection, contents: Contents) -> None:
    with said("setting the sequences"):
        for found in contents.sequences:
            name = qualified(found.schema, found.name)
            connection.execute("select setval(%s::regclass, %s::int8, %s)", [name, found.last_value, found.is_called])


# ---- the comparison


def read_back(
    contents: Contents,
    crew: Crew,
    *,
    amcheck: bool = False,
    progress: Callable[[Progress], None] = ignored,
    watch: Callable[[], None] = unwatched,
) -> Compared:
    """Compare the crew's database with the backup: rows, large objects, sequences, schema, what must be valid."""
    clock = _Clock()
    data = contents.data()
    watching = _watching(progress, watch, data, "read_table")
    catalogue = _demanded(contents, "catalogue")
    with clock.step("rows"):
        tables = crew.run(_data_jobs("read_table", data), watching)
    with clock.step("schema"):
        text = Job("fetch_text", {"key": catalogue.key, "sha256": catalogue.sha256})
        wanted, found, large, state = crew.run(
            [text, Job("read_lines", {}), Job("read_blobs", {}), Job("read_state", {})]
        )
    differences = [
        *_row_differences(data, tables),
        *_line_differences(wanted["text"].splitlines(), found["lines"]),
        *_blob_differences(contents, large),
        *_state_differences(contents, state),
    ]
    lacks: list[str] = []
    if amcheck:
        with clock.step("amcheck"):
            checked = crew.run([Job("check_indexes", {})], watching)[0]
        lacks += [checked["lacks"]] if checked["lacks"] else []
        differences += [
            Difference(f"index {name}", "sound", "amcheck finds it corrupted") for name in checked["broken"]
        ]
    return Compared(tuple(differences), tuple(lacks), len(data), contents.totals["rows"], clock.seconds)


def _row_differences(
    data: Sequence[tuple[Table, StoredObject]], results: Sequence[Mapping[str, Any]]
) -> list[Difference]:
    found: list[Difference] = []
    for (table, stored), result in zip(data, results, strict=True):
        if where := result["differs"]:
            same_rows = where == "the order of its rows"
            what = f"table {table}: order or text differs, {where}"
            wanted = f"{stored.rows} rows, xxh3 {stored.xxh3_128}"
            found.append(
                Difference(what, wanted, f"{result['rows']} rows, xxh3 {result['xxh3_128']}", grave=not same_rows)
            )
    return found


def _line_differences(wanted: Sequence[str], found: Sequence[str]) -> list[Difference]:
    missing, surplus = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    return [
        *(Difference(f"schema: {_head(line)}", _short(line), "no such line") for line in missing),
        *(Difference(f"schema: {_head(line)}", "no such line", _short(line)) for line in surplus),
    ]


def _head(line: str) -> str:
    return " ".join(line.split(" ")[:2])


def _short(line: str) -> str:
    return line if len(line) <= 200 else f"{line[:197]}..."  # noqa: PLR2004


def _blob_differences(contents: Contents, found: Mapping[str, Any]) -> list[Difference]:
    wanted = contents.large_objects
    if (found["count"], found["xxh3_128"]) == (wanted.count, wanted.xxh3_128):
        return []
    return [
        Difference(
            "large objects", f"{wanted.count}, xxh3 {wanted.xxh3_128}", f"{found['count']}, xxh3 {found['xxh3_128']}"
        )
    ]


def _state_differences(contents: Contents, state: Mapping[str, Any]) -> list[Difference]:
    values = {(schema, name): (value, called) for schema, name, value, called in state["sequences"]}
    found = [Difference(name, "valid", "not valid") for name in state["invalid"]]
    for wanted in contents.sequences:
        there = values.get((wanted.schema, wanted.name))
        if there != (wanted.last_value, wanted.is_called):
            what = f"sequence {wanted.schema}.{wanted.name}"
            found.append(
                Difference(what, _position(wanted.last_value, wanted.is_called), _position(*there or ("none", True)))
            )
    missing = [name for name in contents.matviews if name not in state["matviews"]]
    found += [Difference(f"materialized view {name}", "populated", "empty") for name in missing]
    return found + _extension_differences(contents, state["extensions"])


def _position(value: str, is_called: bool) -> str:
    return value if is_called else f"{value} (not yet given out)"


def _extension_differences(contents: Contents, there: Sequence[Sequence[str]]) -> list[Difference]:
    """A restore makes the newest version that the server has: worth a word, not a verdict."""
    versions = {name: version for name, version, _ in there}
    return [
        Difference(f"extension {wanted['name']}", wanted["version"], versions[wanted["name"]], grave=False)
        for wanted in contents.extensions
        if versions.get(wanted["name"], wanted["version"]) != wanted["version"]
    ]


_COMMENT = """
select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()
"""
USED = """
select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)')
"""
