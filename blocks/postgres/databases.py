"""Databases as wholes on one server: what is there, what a role may do with them, their marks, and the two renames.

Nothing here reads or writes a row. The only act on a live database is `swap`: both names change in one transaction, and
a death before its commit changes nothing. `refusal_to_rename` says beforehand where a server would not let it.
"""

import functools
import re
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from blocks.errors import Refused
from blocks.postgres.address import Address, said, translate
from blocks.postgres.load import INCOMPLETE, USED
from blocks.postgres.pins import QUOTED_LISTS

MAINTENANCE = "postgres"
END_CLIENTS_EVERY_S = 0.05
END_CLIENTS = """select pg_terminate_backend(pid) from pg_stat_activity
    where datname = %s and backend_type <> 'autovacuum worker'"""  # those the rename ends, a plain role may not
OURS = "shipkeeper"  # application_name; an operation gives its own, so that a successor can end what it left
SWAP_RIGHTS = ("CREATEDB", "pg_signal_backend")
RENAME_WAIT = "the live database's clients did not leave within the time that Postgres waits for them"


@dataclass(frozen=True)
class ServerFacts:
    """What a restore needs to know of a server before it does anything there."""

    version_num: int
    databases: tuple[str, ...]
    can_create: bool
    extensions: tuple[str, ...]
    roles: tuple[str, ...]
    collation_version: str | None
    free_bytes: int | None  # where its data lie; None when that is another machine's affair


def facts(address: Address) -> ServerFacts:
    """A look at the server as the address's role sees it."""
    with _maintenance(address) as connection:
        return ServerFacts(
            version_num=connection.info.server_version,
            databases=tuple(_column(connection, "select datname from pg_database order by 1")),
            can_create=bool(
                _one(connection, "select rolcreatedb or rolsuper from pg_roles where rolname = current_user")
            ),
            extensions=tuple(_column(connection, "select name from pg_available_extensions order by 1")),
            roles=tuple(_column(connection, "select rolname from pg_roles order by 1")),
            collation_version=_one(
                connection,
                "select pg_database_collation_actual_version(oid) from pg_database where datname = current_database()",
            ),
            free_bytes=_free_bytes(address, connection),
        )


def mark(address: Address, name: str) -> str | None:
    """The comment on a database: ours says which backup it is and that it was verified; None without one."""
    query = "select shobj_description(oid, 'pg_database') from pg_database where datname = %s"
    with _maintenance(address) as connection:
        return _one(connection, query, name)


def is_unfinished(address: Address, name: str) -> bool:
    """Whether nothing but a restore can have made it: its comment says incomplete, or it has none and is empty.

    One that is not there is unfinished too.
    """
    if is_open(address, name) is None:
        return True
    comment = mark(address, name)
    return comment.startswith(INCOMPLETE) if comment else not _used(address.at(name))


def half_restored(address: Address, prefix: str) -> list[str]:
    """Databases that a restore began and did not finish; one without a comment yet is told by our name for it."""
    query = """select datname from pg_database d, shobj_description(oid, 'pg_database') said
               where starts_with(said, %s) or said is null and starts_with(datname, %s)
                 and substr(datname, length(%s) + 1) ~ '^[a-z2-7]{6}$' order by 1"""
    with _maintenance(address) as connection:
        return [row[0] for row in connection.execute(query, [INCOMPLETE, prefix, prefix]).fetchall()]


def set_mark(address: Address, name: str, text: str, *, application_name: str = OURS) -> None:
    """Open a database to its clients again and put the comment on it, in one transaction: only then it is whole."""
    with _maintenance(address, application_name=application_name) as connection, connection.transaction():
        _do(connection, "grant connect on database {} to public", name)
        connection.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(name), sql.Literal(text)))


def is_open(address: Address, name: str) -> bool | None:
    """Whether a database lets clients in; None when it does not exist."""
    with _maintenance(address) as connection:
        return _one(connection, "select datallowconn from pg_database where datname = %s", name)


def set_open(address: Address, name: str, allow: bool, *, application_name: str = OURS) -> None:
    """Let clients in, or no new ones."""
    with _maintenance(address, application_name=application_name) as connection:
        connection.execute(
            sql.SQL("alter database {} allow_connections {}").format(sql.Identifier(name), sql.Literal(allow))
        )


def refusal_to_rename(address: Address, live: str) -> str | None:
    """Why this role can't swap `live` out here; None when it can."""
    if live == MAINTENANCE:
        return f"{MAINTENANCE} is the maintenance database, in which the server's own sessions live"
    query = """
        select d.datname is null, not pg_has_role(current_user, d.datdba, 'usage'),
               not (r.rolcreatedb or r.rolsuper),
               not (r.rolsuper or pg_has_role(current_user, 'pg_signal_backend', 'usage'))
        from pg_roles r left join pg_database d on d.datname = %s where r.rolname = current_user"""
    with _maintenance(address) as connection:
        row = connection.execute(query, [live]).fetchone() or (True, True, True, True)
    reasons = (
        "it does not exist",
        "the role does not own it",
        "the role lacks CREATEDB",
        "the role lacks pg_signal_backend",
    )
    lacking = [reason for lacks, reason in zip(row, reasons, strict=True) if lacks]
    return lacking[0] if lacking else None


def settings_refused(address: Address, live: str) -> list[str]:
    """Settings of `live` that this role could not give to the database that takes its name; names only.

    Postgres' own answer: each is set on `live` as it is set there already, in a transaction that is rolled back.
    """
    with _maintenance(address) as connection:
        return [name for name, command in _settings(connection, live, live) if _refused(connection, command)]


def swap(  # noqa: PLR0913 - three names that must not be mixed up, by keyword
    address: Address, *, live: str, new: str, old: str, limit_s: float, application_name: str = OURS
) -> None:
    """Rename live to old and new to live, both or none; the clients of both are ended while the first one waits.

    Takes about 0.1 s; Refused when the clients of `live` keep coming for longer than Postgres waits (5 s) or `limit_s`.
    """
    ours = functools.partial(_maintenance, address, application_name=application_name)
    with ours(autocommit=False) as renaming, ours() as ending:
        renaming.execute(sql.SQL("set statement_timeout = {}").format(sql.Literal(f"{limit_s:.3f}s")))
        renaming.execute("set idle_in_transaction_session_timeout = '10s'")
        _rename(renaming, ending, live, old)
        _rename(renaming, ending, new, live)
        renaming.commit()


def dress_like(address: Address, name: str, like: str) -> list[str]:
    """Give `name` the settings, rights, owner and connection limit of `like`: they do not travel with a name.

    Returns what was set, names only: a setting's value can be a secret.
    """
    with _maintenance(address) as connection, connection.transaction():
        settings = _settings(connection, name, like)
        for _, command in settings:
            connection.execute(command)
        return [*(f"setting {setting}" for setting, _ in settings), *_same_rights(connection, name, like)]


@contextmanager
def in_use(address: Address, name: str) -> Generator[None]:
    """Within it, `name` is in use, whether it exists yet or not: a session of this process bears it as its own name."""
    with _maintenance(address, application_name=name):
        yield


def unused(address: Address, prefix: str) -> list[str]:
    """Databases of this name's beginning that nobody uses: what a killed proof left."""
    query = """select datname from pg_database d where starts_with(datname, %s) and not exists (
               select from pg_stat_activity a where d.datname in (a.datname, a.application_name)) order by 1"""
    with _maintenance(address) as connection:
        return [row[0] for row in connection.execute(query, [prefix]).fetchall()]


def _rename(
    renaming: "psycopg.Connection[Any]", ending: "psycopg.Connection[Any]", old_name: str, new_name: str
) -> None:
    """ALTER DATABASE shuts out new clients and waits for those inside; they are ended from the other connection."""
    failure: list[psycopg.Error] = []

    def rename() -> None:
        try:
            renaming.execute(
                sql.SQL("alter database {} rename to {}").format(sql.Identifier(old_name), sql.Identifier(new_name))
            )
        except psycopg.Error as error:
            failure.append(error)

    thread = threading.Thread(target=rename, name="rename")
    thread.start()
    while thread.is_alive():
        ending.execute(END_CLIENTS, [old_name])
        thread.join(END_CLIENTS_EVERY_S)
    if failure and failure[0].sqlstate in {"55006", "57014"}:
        raise Refused(f"{old_name} was not renamed: {RENAME_WAIT}; nothing was changed") from None
    if failure:
        raise translate(failure[0], f"renaming {old_name}") from None


def _settings(connection: "psycopg.Connection[Any]", name: str, like: str) -> list[tuple[str, sql.Composed]]:
    """The settings of `like`, each by its name, with the command that gives it to `name`."""
    query = """select r.rolname, unnest(s.setconfig) from pg_db_role_setting s
               join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole
               where d.datname = %s"""
    found: list[tuple[str, sql.Composed]] = []
    for role, assignment in connection.execute(query, [like]).fetchall():
        setting, _, value = assignment.partition("=")
        where = sql.SQL("role {} in database {}").format(sql.Identifier(role), sql.Identifier(name)) if role else None
        target = where or sql.SQL("database {}").format(sql.Identifier(name))
        values = quoted_list(value) if setting.lower() in QUOTED_LISTS else [value]
        literals = sql.SQL(", ").join(map(sql.Literal, values))
        command = sql.SQL("alter {} set {} to {}").format(target, _setting_name(setting), literals)
        found.append((f"{setting} of {role}" if role else setting, command))
    return found


def _refused(connection: "psycopg.Connection[Any]", command: sql.Composed) -> bool:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(command)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def _setting_name(setting: str) -> sql.Composable:
    return sql.SQL(".").join(sql.Identifier(part) for part in setting.split("."))


def _same_rights(connection: "psycopg.Connection[Any]", name: str, like: str) -> list[str]:
    query = "select datconnlimit, pg_get_userbyid(datdba) from pg_database where datname = %s"
    row = connection.execute(query, [like]).fetchone()
    if row is None:
        return []
    limit, owner = row
    connection.execute(
        sql.SQL("alter database {} connection limit {}").format(sql.Identifier(name), sql.Literal(limit))
    )
    done = [f"connection limit {limit}"] if limit >= 0 else []
    _do(connection, "revoke all on database {} from public", name)
    for grantee, right, option in connection.execute(GRANTS, [like]).fetchall():
        to, may_grant = sql.Identifier(grantee) if grantee else sql.SQL("public"), sql.SQL(option)
        connection.execute(
            sql.SQL("grant {} on database {} to {}{}").format(sql.SQL(right), sql.Identifier(name), to, may_grant)
        )
        done.append(f"grant {right} to {grantee or 'public'}{option}")
    connection.execute(sql.SQL("alter database {} owner to {}").format(sql.Identifier(name), sql.Identifier(owner)))
    return [*done, f"owner {owner}"]


def quoted_list(value: str) -> list[str]:
    """The names of a list as Postgres stores it: ready-quoted, so that quoting it again would make one name of it."""
    names = re.findall(r'\s*(?:"((?:[^"]|"")*)"|([^",]+))\s*(?:,|$)', value)
    return [quoted.replace('""', '"') if not plain else plain.strip() for quoted, plain in names]


GRANTS = """select r.rolname, lower(a.privilege_type), case when a.is_grantable then ' with grant option' else '' end
    from pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    left join pg_roles r on r.oid = a.grantee
    where d.datname = %s and a.grantee <> d.datdba order by 1 nulls first, 2"""


@contextmanager
def _maintenance(
    address: Address, *, autocommit: bool = True, application_name: str = OURS
) -> Generator["psycopg.Connection[Any]"]:
    """A connection beside the databases it speaks of."""
    with (
        said(f"commanding the databases of {address.host}"),
        address.at(MAINTENANCE).connect(autocommit=autocommit, application_name=application_name) as connection,
    ):
        yield connection


def _used(address: Address) -> bool:
    """Whether a database has relations of its own."""
    with said(f"looking into {address.database}"), address.connect(application_name=OURS) as connection:
        return bool(_one(connection, USED))


def _do(connection: "psycopg.Connection[Any]", command: LiteralString, name: str) -> None:
    connection.execute(sql.SQL(command).format(sql.Identifier(name)))


def _free_bytes(address: Address, connection: "psycopg.Connection[Any]") -> int | None:
    """SQL can't tell, but on this machine the file system can, if the role may know the folder and we may look."""
    if not (address.host.startswith("/") or address.host in {"127.0.0.1", "::1", "localhost"}):
        return None
    folder = _one(connection, "select setting from pg_settings where name = 'data_directory'")
    try:
        return shutil.disk_usage(folder).free if folder else None
    except OSError:
        return None


def _column(connection: "psycopg.Connection[Any]", query: LiteralString) -> list[str]:
    return [row[0] for row in connection.execute(query).fetchall()]


def _one(connection: "psycopg.Connection[Any]", query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None
