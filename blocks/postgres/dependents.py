"""What hangs on a schema that is left out: a restore would stop at the first of these, so they are named beforehand.

Read from pg_depend, which is blind to what stands in the quoted body of a function. What a dump leaves out together
with the schema (its own objects, triggers on its tables, its place in publications and default privileges) is not here.
"""

from collections.abc import Iterable

import psycopg

from blocks.postgres.pins import rows


def dependents(connection: psycopg.Connection, schemas_out: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Objects outside the left out schemas that hang on something in them, by schema."""
    out = sorted(schemas_out)
    found = rows(connection, _DEPENDENTS, {"out": out}) if out else []
    return {
        schema: tuple(sorted(name for on, name in found if on == schema)) for schema in sorted({s for s, _ in found})
    }


# An inside object's own internal parts (row and array types) have a schema themselves; what hangs on a constraint or
# index inside hangs on its table too. A part of a table (rule, trigger, policy, default) is where its table is.
_DEPENDENTS = """
with inside as materialized (
  select r.refclassid, r.refobjid, n.nspname
  from (select distinct refclassid, refobjid from pg_depend where refobjid >= 16384) r,
    pg_identify_object(r.refclassid, r.refobjid, 0) i, pg_namespace n
  where n.nspname = any (%(out)s)
    and (i.schema = quote_ident(n.nspname) or r.refclassid = 'pg_namespace'::regclass and r.refobjid = n.oid)),
hanging as (
  select distinct d.classid, d.objid, inside.nspname from pg_depend d join inside using (refclassid, refobjid)
  where d.deptype in ('n', 'a') and d.classid not in ('pg_default_acl'::regclass, 'pg_publication_rel'::regclass,
    'pg_publication_namespace'::regclass, 'pg_amop'::regclass, 'pg_amproc'::regclass)
    and not exists (select from pg_depend e where (e.classid, e.objid, e.deptype) = (d.classid, d.objid, 'e')))
select distinct h.nspname, case when w.rulename = '_RETURN' and c.relkind = 'v' then 'view ' || c.oid::regclass
  when w.rulename = '_RETURN' then 'materialized view ' || c.oid::regclass else i.type || ' ' || i.identity end
from hanging h cross join pg_identify_object(h.classid, h.objid, 0) i
left join pg_rewrite w on h.classid = 'pg_rewrite'::regclass and w.oid = h.objid
left join pg_trigger t on h.classid = 'pg_trigger'::regclass and t.oid = h.objid
left join pg_policy p on h.classid = 'pg_policy'::regclass and p.oid = h.objid
left join pg_attrdef a on h.classid = 'pg_attrdef'::regclass and a.oid = h.objid
left join pg_class c on c.oid = coalesce(w.ev_class, t.tgrelid, p.polrelid, a.adrelid)
left join pg_namespace n on n.oid = c.relnamespace
where coalesce(i.schema, quote_ident(n.nspname)) is null
  or coalesce(i.schema, quote_ident(n.nspname)) <> all (select quote_ident(x) from unnest(%(out)s) x)
order by 1, 2
"""
