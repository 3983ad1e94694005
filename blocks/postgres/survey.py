# ruff: noqa: S608 - statements put together from the constants below
"""What is in a database, looked at before anything is done: its tables, what is left out and why, what would go wrong.

`look` only reads catalogues, on a connection that may or may not be inside a snapshot. A `Survey` is a plain value for
the plan to show; it holds names, sizes and estimates, never a row, a password or the value of a setting.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

from blocks.errors import Refused
from blocks.postgres.address import Address, said
from blocks.postgres.contents import Excluded, Table
from blocks.postgres.dependents import dependents
from blocks.postgres.exclusion import data_rule, schemas_left_out
from blocks.postgres.pins import Rows, of_database, rows

LONG_TRANSACTION = "5 minutes"
LOOK_TIMEOUT_S = 120
V16, V17 = 160000, 170000  # daticurules is new in 16, daticulocale is datlocale since 17


@dataclass(frozen=True)
class LockBudget:
    """How many table locks a backup takes (its own and pg_dump's), and how many the server's lock table holds."""

    wanted: int
    available: int


@dataclass(frozen=True)
class Survey:
    """What a backup of this database would take, leave out, and stumble over."""

    database: Mapping[str, Any]
    pinned: Mapping[str, str]
    tables: tuple[Table, ...]
    excluded: tuple[Excluded, ...]
    excluded_schemas: tuple[str, ...]
    dependents: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    sequences: tuple[tuple[str, str], ...]
    extensions: tuple[Mapping[str, str], ...]
    roles: tuple[str, ...]
    policy_roles: tuple[str, ...]
    settings: tuple[Mapping[str, str | None], ...]
    matviews: tuple[str, ...]
    large_objects: int
    long_transactions: tuple[str, ...]
    missing_rights: tuple[str, ...]
    locks: LockBudget
    standby: bool

    @property
    def major(self) -> int:
        """The server's major version."""
        return int(self.database["server_version_num"]) // 10000


@dataclass(frozen=True)
class Rules:
    """What the stage leaves out; `provider_schemas` may match nothing."""

    exclude_schemas: tuple[str, ...] = ()
    exclude_data: tuple[str, ...] = ()
    provider_schemas: tuple[str, ...] = ()


@dataclass(frozen=True)
class Relation:
    """A row of pg_class as the rules see it: an ordinary table, or a partitioned one (which has no rows of its own)."""

    oid: int
    table: Table
    is_partitioned: bool
    ancestors: tuple[tuple[str, str], ...]
    readable: bool
    hides_rows: bool


def survey(
    address: Address,
    *,
    exclude_schemas: Sequence[str] = (),
    exclude_data: Sequence[str] = (),
    provider_schemas: Sequence[str] = (),
    application_name: str = "shipkeeper",
) -> Survey:
    """Look at a database; Refused when a rule matches nothing. It waits for no lock."""
    rules = Rules(tuple(exclude_schemas), tuple(exclude_data), tuple(provider_schemas))
    with (
        said(f"looking at {address}"),
        closing(address.connect(application_name=application_name, statement_timeout_s=LOOK_TIMEOUT_S)) as connection,
    ):
        return look(connection, rules, is_locked=False)


def look(connection: psycopg.Connection, rules: Rules, *, is_locked: bool) -> Survey:
    """The survey, over a connection of the caller's; sizes are exact where it has locked the tables."""
    standby = bool(rows(connection, "select pg_is_in_recovery()")[0][0])
    schemas = left_out_schemas(connection, rules)
    found = relations(connection, schemas, exact_sizes=is_locked)
    tables, excluded = _divided(found, rules, standby=standby)
    sequences = _sequences(connection, schemas, standby=standby)
    large, unreadable = rows(connection, _LARGE_OBJECTS)[0]
    return Survey(
        database=_facts(connection),
        pinned=of_database(connection),
        tables=tables,
        excluded=(*excluded, *_excluded_with_schema(connection, schemas)),
        excluded_schemas=tuple(sorted(schemas)),
        dependents=dependents(connection, schemas),
        left_out=tuple(_left_out(connection, found, schemas, large, standby=standby)),
        sequences=tuple((schema, name) for schema, name, _ in sequences),
        extensions=tuple({"name": n, "version": v, "schema": s} for n, v, s in rows(connection, _EXTENSIONS)),
        roles=tuple(name for (name,) in rows(connection, _ROLES)),
        policy_roles=tuple(name for (name,) in rows(connection, _POLICY_ROLES, {"out": list(schemas)})),
        settings=tuple({"role": role, "name": name} for role, name in rows(connection, _SETTINGS)),
        matviews=_matviews(connection, schemas),
        large_objects=large,
        long_transactions=_long_transactions(connection),
        missing_rights=tuple(_missing_rights(found, tables, sequences, unreadable)),
        locks=_locks(connection, len(found)),
        standby=standby,
    )


def left_out_schemas(connection: psycopg.Connection, rules: Rules) -> dict[str, str]:
    """Each left out schema with its rule."""
    names = [name for (name,) in rows(connection, _SCHEMAS)]
    return schemas_left_out(names, rules.exclude_schemas, rules.provider_schemas)


def relations(connection: psycopg.Connection, schemas_out: Mapping[str, str], *, exact_sizes: bool) -> list[Relation]:
    """Every table outside the left out schemas. An exact size waits for whoever locks the table."""
    query = _RELATIONS.replace("SIZE", _EXACT_SIZE if exact_sizes else _KNOWN_SIZE)
    return [_relation(row) for row in rows(connection, query, {"out": list(schemas_out)})]


def _relation(row: Sequence[Any]) -> Relation:
    oid, schema, name, kind, persistence, estimate, columns, key, condition, ancestors, readable, hides, size = row
    table = Table(schema, name, tuple(columns), tuple(key), persistence, size, max(estimate, 0), condition)
    return Relation(oid, table, kind == "p", tuple((s, n) for s, n in ancestors), readable, hides)


def _divided(found: Sequence[Relation], rules: Rules, *, standby: bool) -> tuple[tuple[Table, ...], list[Excluded]]:
    excluded: list[Excluded] = []
    taken = {relation.table: relation for relation in found if not relation.is_partitioned}
    for rule in rules.exclude_data:
        hits = [table for table, relation in taken.items() if _hit(relation, rule)]
        if not hits:
            raise Refused(f"exclude_data names {rule!r}, but no table matches it: take it out or correct it")
        excluded += [Excluded(t.schema, t.name, "data", rule, t.rows_estimate) for t in hits]
    out = {(entry.schema, entry.name) for entry in excluded}
    unique = list({(entry.schema, entry.name): entry for entry in reversed(excluded)}.values())[::-1]
    kept = [t for t in taken if (t.schema, t.name) not in out and not (standby and t.persistence == "u")]
    return tuple(kept), unique


def _hit(relation: Relation, rule: str) -> bool:
    """A rule that names a partitioned table means its partitions."""
    matches = data_rule(rule)
    names = [(relation.table.schema, relation.table.name), *relation.ancestors]
    return any(matches(schema, name) for schema, name in names)


def _excluded_with_schema(connection: psycopg.Connection, schemas: Mapping[str, str]) -> list[Excluded]:
    found = rows(connection, _IN_SCHEMAS, [list(schemas)])
    return [Excluded(schema, name, "schema", schemas[schema], estimate) for schema, name, estimate in found]


def _facts(connection: psycopg.Connection) -> dict[str, Any]:
    version = connection.info.server_version
    locale = "datlocale" if version >= V17 else "daticulocale"
    icu_rules = "daticurules" if version >= V16 else "null::text"
    query = _DATABASE.replace("LOCALE", locale).replace("ICU_RULES", icu_rules)
    names = (
        "name oid system_identifier server_version_num encoding collate ctype provider collation_version "
        "size_bytes locale icu_rules"
    )
    found = dict(zip(names.split(), rows(connection, query)[0], strict=True))
    return {name: value for name, value in found.items() if value is not None or name not in ("locale", "icu_rules")}


def _sequences(connection: psycopg.Connection, schemas: Mapping[str, str], *, standby: bool) -> Rows:
    found = rows(connection, _SEQUENCES, {"out": list(schemas)})
    return [(schema, name, readable) for schema, name, kept, readable in found if not (standby and kept == "u")]


def _matviews(connection: psycopg.Connection, schemas: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{schema}.{name}" for schema, name in rows(connection, _MATVIEWS, {"out": list(schemas)}))


def _left_out(
    connection: psycopg.Connection, found: Sequence[Relation], schemas: Mapping[str, str], large: int, *, standby: bool
) -> list[str]:
    sentences = [f"{what}: {name}" for what, name in rows(connection, _NOT_IN_A_DUMP, {"out": list(schemas)})]
    if standby:
        tables = (relation.table for relation in found if not relation.is_partitioned)
        sentences += [f"unlogged table data on a standby: {table}" for table in tables if table.persistence == "u"]
    if large:
        sentences.append("owner and rights of large objects")
    return sentences


def _long_transactions(connection: psycopg.Connection) -> tuple[str, ...]:
    found = rows(connection, _LONG, [LONG_TRANSACTION])
    return tuple(f"pid {pid} ({who}, {state}) since {age}" for pid, who, state, age in found)


def _missing_rights(found: Sequence[Relation], tables: Sequence[Table], sequences: Rows, unreadable: int) -> list[str]:
    wanted = set(tables)
    rights = [f"select on {r.table}" for r in found if not r.readable and (r.is_partitioned or r.table in wanted)]
    rights += [f"bypassrls for {r.table}" for r in found if r.hides_rows and r.table in wanted]
    rights += [f"select on sequence {schema}.{name}" for schema, name, readable in sequences if not readable]
    return rights + ([f"select on {unreadable} large objects"] if unreadable else [])


def _locks(connection: psycopg.Connection, tables: int) -> LockBudget:
    return LockBudget(2 * tables, int(rows(connection, _LOCK_TABLE)[0][0]))


_USER = r"nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_(toast|temp)'"
_MEMBER = "exists (select from pg_depend d where d.classid = '{}'::regclass and d.objid = {} and d.deptype = 'e')"
_SCHEMAS = f"select nspname from pg_namespace where {_USER} order by 1"
# A member of an extension comes with the extension, but for the rows of its configuration tables (extconfig).
_CONFIG = "select unnest(extconfig) as oid, unnest(extcondition) as condition from pg_extension"
_RELATIONS = f"""
with config as ({_CONFIG})
select c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.reltuples::bigint,
  array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        and a.attgenerated = '' order by a.attnum),
  array(select a.attname::text from pg_index i, unnest(i.indkey) with ordinality k(attnum, position), pg_attribute a
        where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid and a.attnum = k.attnum order by position),
  config.condition,
  array(select array[pn.nspname::text, pc.relname::text] from pg_partition_ancestors(c.oid) p
        join pg_class pc on pc.oid = p.relid join pg_namespace pn on pn.oid = pc.relnamespace
        where c.relispartition and p.relid <> c.oid),
  has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), row_security_active(c.oid),
  SIZE
from pg_class c join pg_namespace n on n.oid = c.relnamespace left join config on config.oid = c.oid
where c.relkind in ('r', 'p') and {_USER} and n.nspname <> all (%(out)s)
  and (config.oid is not null or not {_MEMBER.format("pg_class", "c.oid")})
order by n.nspname collate "C", c.relname collate "C"
"""
_EXACT_SIZE = "case c.relkind when 'r' then pg_table_size(c.oid) else 0 end"
_KNOWN_SIZE = """
  (c.relpages::bigint + coalesce((select t.relpages from pg_class t where t.oid = c.reltoastrelid), 0))
  * current_setting('block_size')::bigint
"""
_IN_SCHEMAS = """
select n.nspname, c.relname, coalesce(greatest(c.reltuples, 0), 0)::bigint
from pg_namespace n left join pg_class c on c.relnamespace = n.oid and c.relkind = 'r'
where n.nspname = any (%s) order by 1, 2
"""
_SEQUENCES = f"""
with config as ({_CONFIG})
select n.nspname, c.relname, c.relpersistence,
  has_schema_privilege(n.oid, 'usage') and has_sequence_privilege(c.oid, 'select')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'S' and {_USER} and n.nspname <> all (%(out)s)
  and (c.oid in (select oid from config) or not {_MEMBER.format("pg_class", "c.oid")})
order by n.nspname collate "C", c.relname collate "C"
"""
_MATVIEWS = f"""
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'm' and c.relispopulated and {_USER} and n.nspname <> all (%(out)s)
  and not {_MEMBER.format("pg_class", "c.oid")}
order by n.nspname collate "C", c.relname collate "C"
"""
_NOT_IN_A_DUMP = f"""
select 'foreign table data', n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'f' and {_USER} and n.nspname <> all (%(out)s)
union all
select 'invalid index', n.nspname || '.' || c.relname
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
where not i.indisvalid and c.relkind = 'i' and {_USER} and n.nspname <> all (%(out)s)
union all
select 'table data of extension ' || e.extname, n.nspname || '.' || c.relname
from pg_extension e
join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
join pg_class c on d.classid = 'pg_class'::regclass and d.objid = c.oid and c.relkind = 'r'
join pg_namespace n on n.oid = c.relnamespace
where not c.oid = any (coalesce(e.extconfig, '{{}}')) and n.nspname <> all (%(out)s)
union all
select 'place in tablespace ' || t.spcname,
  min(format('%%s.%%s', n.nspname, c.relname)) || coalesce(' and ' || nullif(count(*) - 1, 0) || ' more', '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_tablespace t on t.oid = c.reltablespace
where {_USER} and n.nspname <> all (%(out)s) group by t.spcname
union all
select 'place in tablespace ' || t.spcname, 'the database'
from pg_database d join pg_tablespace t on t.oid = d.dattablespace
where d.datname = current_database() and t.spcname <> 'pg_default'
order by 1, 2
"""
_LARGE_OBJECTS = """
select count(*), count(*) filter (where not (
    (select rolsuper from pg_roles where rolname = current_user) or pg_has_role(lomowner, 'usage')
    or exists (select from aclexplode(lomacl) a where a.privilege_type = 'SELECT'
               and (a.grantee = 0 or pg_has_role(a.grantee, 'usage')))))
from pg_largeobject_metadata
"""
_DATABASE = """
select d.datname, d.oid::int8, (select system_identifier::text from pg_control_system()),
  current_setting('server_version_num')::int, pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
  d.datlocprovider::text, d.datcollversion, pg_database_size(d.oid), LOCALE, ICU_RULES
from pg_database d where d.datname = current_database()
"""
_EXTENSIONS = """
select e.extname, e.extversion, n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
where e.extname <> 'plpgsql' order by 1
"""
_ROLES = "select rolname from pg_roles where rolname !~ '^pg_' order by 1"
_POLICY_ROLES = f"""
select distinct r.rolname from pg_policy p join pg_roles r on r.oid = any (p.polroles)
join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
where {_USER} and n.nspname <> all (%(out)s) order by 1
"""
_SETTINGS = """
select r.rolname, split_part(x, '=', 1) from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole,
  unnest(s.setconfig) x
where s.setdatabase in (0, (select oid from pg_database where datname = current_database())) order by 1 nulls first, 2
"""
_LONG = """
select pid, coalesce(nullif(application_name, ''), usename, 'unnamed'), coalesce(state, 'unknown'),
  to_char(xact_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and xact_start < now() - %s::interval
union all
select 0, 'prepared transaction ' || gid, 'prepared', to_char(prepared at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from pg_prepared_xacts where database = current_database()
order by 4
"""
_LOCK_TABLE = """
select current_setting('max_locks_per_transaction')::int
  * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)
"""
