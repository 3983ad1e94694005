# ruff: noqa: E501 - the query reads by its columns
"""The schema as sorted lines, one an object: what a restore is compared with, line by line.

Names and texts only: no oid, no owner, no grant, no value of a row or a sequence, nothing of an extension's members.
A line survives a dump and a restore unchanged; where Postgres prints one thing in two ways, the newer way is taken.
What a dump leaves out by design (invalid indexes) has no line.
"""

import re
from collections.abc import Sequence

import psycopg

from blocks.postgres.pins import rows

_ELEMENT = r"'(?:[^']|'')*'::character varying"
_ARRAY_THEN_CAST = re.compile(rf"\(ARRAY\[({_ELEMENT}(?:, {_ELEMENT})*)\]\)::text\[\]")


def lines(connection: psycopg.Connection, exclude_schemas: Sequence[str] = ()) -> list[str]:
    """The schema's lines, sorted by code point; exclude_schemas are names, not patterns. search_path must be ''."""
    found = rows(connection, _LINES, {"out": list(exclude_schemas)})
    return sorted({canonical(line) for (line,) in found})


def canonical(line: str) -> str:
    """One line, in the way Postgres prints it after a restore.

    `status in ('a', 'b')` on a varchar is printed with one cast around the array, and read back as a cast an element.
    """
    return _ARRAY_THEN_CAST.sub(_cast_each, line).replace("\\", "\\\\").replace("\n", "\\n")


def _cast_each(found: re.Match[str]) -> str:
    elements = re.findall(_ELEMENT, found[1])
    return f"ARRAY[{', '.join(f'({element})::text' for element in elements)}]"


# A line's head is a word, then the object's name: differences are shown by it.
_LINES = r"""
with n as (
  select oid, nspname from pg_namespace where nspname not in ('pg_catalog', 'information_schema')
    and nspname !~ '^pg_(toast|temp)' and nspname <> all (%(out)s)),
member as (select classid, objid from pg_depend where deptype = 'e'),
rel as (
  select c.*, n.nspname, format('%%I.%%I', n.nspname, c.relname) as id from pg_class c join n on n.oid = c.relnamespace
  where (select count(*) from member where classid = 'pg_class'::regclass and objid = c.oid) = 0),
typ as (
  select t.*, format('%%I.%%I', n.nspname, t.typname) as id from pg_type t join n on n.oid = t.typnamespace
  where (select count(*) from member where classid = 'pg_type'::regclass and objid = t.oid) = 0),
fun as (
  select p.*, format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as id
  from pg_proc p join n on n.oid = p.pronamespace
  where (select count(*) from member where classid = 'pg_proc'::regclass and objid = p.oid) = 0),
child as (select distinct inhrelid from pg_inherits join pg_class on oid = inhrelid where not relispartition),
f(x) as (
  select format('schema %%I', nspname) from n
    where (select count(*) from member where classid = 'pg_namespace'::regclass and objid = n.oid) = 0
  union all select format('extension %%I in %%I', extname, nspname) from pg_extension e
    join pg_namespace s on s.oid = e.extnamespace
  union all select format('relation %%s kind %%s persistence %%s%%s%%s%%s options %%s security %%s %%s', id, relkind,
      relpersistence, ' partition by ' || pg_get_partkeydef(oid), ' of type ' || nullif(reloftype, 0)::regtype,
      ' method ' || (select amname from pg_am where oid = relam and amname <> 'heap'),
      array_to_string(array(select unnest(reloptions) order by 1), ','), relrowsecurity, relforcerowsecurity)
    from rel where relkind in ('r', 'p', 'v', 'm', 'f', 'c')
  union all select format('inherits %%s from %%s.%%s %%s', id, pn.nspname, p.relname, pg_get_expr(rel.relpartbound, rel.oid))
    from rel join pg_inherits on inhrelid = rel.oid join pg_class p on p.oid = inhparent
    join pg_namespace pn on pn.oid = p.relnamespace where rel.relkind in ('r', 'p', 'f')
  union all select format('column %%s.%%I %%s %%s%%s%%s%%s%%s%%s%%s', id, attname,
      case when rel.oid in (select inhrelid from child) then 0
           else row_number() over (partition by attrelid order by attnum) end,
      format_type(atttypid, atttypmod),
      case when attnotnull then ' not null' else '' end,
      case when attgenerated <> '' then ' generated ' || attgenerated::text when attidentity <> '' then ' identity ' || attidentity::text
           else '' end,
      ' default ' || pg_get_expr(adbin, adrelid),
      (select format(' collate %%I.%%I', cn.nspname, cl.collname) from pg_collation cl join pg_namespace cn
         on cn.oid = cl.collnamespace where cl.oid = attcollation and attcollation <> (select typcollation from pg_type
         where oid = atttypid)),
      (select ' storage ' || attstorage::text from pg_type where oid = atttypid and attstorage <> typstorage),
      ' options ' || nullif(array_to_string(array(select o from unnest(attoptions || attfdwoptions) o
         where o !~ '^pg_' order by 1), ','), ''))
    from rel join pg_attribute on attrelid = rel.oid left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attnum > 0 and not attisdropped and relkind in ('r', 'p', 'v', 'm', 'f', 'c')
  union all select format('view %%s %%s', id, pg_get_viewdef(oid)) from rel where relkind in ('v', 'm')
  union all select format('index %%s%%s%%s', pg_get_indexdef(indexrelid), case when indisclustered then ' clustered' else '' end,
      case when indisreplident then ' replica identity' else '' end)
    from pg_index join rel on rel.oid = indexrelid where indisvalid or relkind = 'I'
  union all select format('constraint %%I on %%s %%s', conname, id, pg_get_constraintdef(k.oid))
    from pg_constraint k join rel on rel.oid = conrelid
  union all select format('constraint %%I on domain %%s %%s', conname, id, pg_get_constraintdef(k.oid))
    from pg_constraint k join typ on typ.oid = contypid
  union all select format('function %%s %%s %%s', id, prokind, md5(case when prokind = 'a' then
      (select concat_ws(' ', a.aggfnoid::regproc, aggtransfn::regproc, aggfinalfn::regproc, aggtranstype::regtype, agginitval)
       from pg_aggregate a where a.aggfnoid = fun.oid) else pg_get_functiondef(oid) end)) from fun
  union all select format('enum %%s %%s', id, (select string_agg(quote_literal(enumlabel), ',' order by enumsortorder)
      from pg_enum where enumtypid = typ.oid)) from typ where typtype = 'e'
  union all select format('domain %%s %%s%%s%%s%%s', id, format_type(typbasetype, typtypmod),
      case when typnotnull then ' not null' else '' end, ' default ' || typdefault,
      (select format(' collate %%I', collname) from pg_collation where oid = typcollation)) from typ where typtype = 'd'
  union all select format('range %%s of %%s %%s', id, rngsubtype::regtype, rngsubdiff) from typ
    join pg_range on rngtypid = typ.oid
  union all select format('type %%s %%s %%s %%s', id, typinput, typoutput, typlen) from typ where typtype = 'b' and typelem = 0
  union all select format('sequence %%s as %%s start %%s by %%s from %%s to %%s cycle %%s owned by %%s', id, seqtypid::regtype,
      seqstart, seqincrement, seqmin, seqmax, seqcycle,
      (select format('%%s.%%I', refobjid::regclass, attname) from pg_depend d join pg_attribute on attrelid = refobjid
         and attnum = refobjsubid where d.classid = 'pg_class'::regclass and d.objid = rel.oid and d.deptype in ('a', 'i')
         and refclassid = 'pg_class'::regclass limit 1))
    from rel join pg_sequence on seqrelid = rel.oid
  union all select format('trigger %%s enabled %%s', pg_get_triggerdef(t.oid), tgenabled) from pg_trigger t
    join rel on rel.oid = tgrelid where not tgisinternal and tgparentid = 0
  union all select format('rule %%s enabled %%s', pg_get_ruledef(r.oid), ev_enabled) from pg_rewrite r
    join rel on rel.oid = ev_class where rulename <> '_RETURN'
  union all select format('policy %%I.%%I %%I %%s %%s to %%s using %%s check %%s', schemaname, tablename, policyname, permissive,
      cmd, array_to_string(array(select unnest(roles) order by 1), ','), qual, with_check)
    from pg_policies join n on nspname = schemaname
  union all select format('event trigger %%I on %%s %%s %%s enabled %%s', evtname, evtevent, evttags, evtfoid::regproc, evtenabled)
    from pg_event_trigger where (select count(*) from member where classid = 'pg_event_trigger'::regclass
      and objid = pg_event_trigger.oid) = 0
  union all select format('publication %%I all %%s %%s %%s', pubname, puballtables, concat(pubinsert, pubupdate, pubdelete,
      pubtruncate, pubviaroot), array(select format('%%I.%%I', t.schemaname, t.tablename) from pg_publication_tables t
      where t.pubname = p.pubname and not puballtables order by 1)) from pg_publication p
  union all select format('statistics %%s', pg_get_statisticsobjdef(s.oid)) from pg_statistic_ext s join n on n.oid = stxnamespace
  union all select format('%%s %%s', i.type, i.identity) from (
      select 'pg_operator'::regclass as c, oid as o from pg_operator union all select 'pg_opclass'::regclass, oid from pg_opclass
      union all select 'pg_opfamily'::regclass, oid from pg_opfamily union all select 'pg_cast'::regclass, oid from pg_cast
      union all select 'pg_collation'::regclass, oid from pg_collation
      union all select 'pg_conversion'::regclass, oid from pg_conversion
      union all select 'pg_ts_config'::regclass, oid from pg_ts_config union all select 'pg_ts_dict'::regclass, oid from pg_ts_dict
      union all select 'pg_language'::regclass, oid from pg_language union all select 'pg_am'::regclass, oid from pg_am
      union all select 'pg_foreign_data_wrapper'::regclass, oid from pg_foreign_data_wrapper
      union all select 'pg_foreign_server'::regclass, oid from pg_foreign_server
      union all select 'pg_transform'::regclass, oid from pg_transform) s, pg_identify_object(s.c, s.o, 0) i
    where s.o >= 16384 and (select count(*) from member where classid = s.c and objid = s.o) = 0
      and coalesce(i.schema, '') <> all (%(out)s)
  union all select format('comment on %%s %%s %%s', i.type, i.identity, md5(description)) from pg_description d,
      pg_identify_object(d.classoid, d.objoid, d.objsubid) i
    where d.objoid >= 16384 and coalesce(i.schema, '') <> all (%(out)s)
      and (select count(*) from member where classid = d.classoid and objid = d.objoid) = 0
      and d.classoid not in ('pg_largeobject'::regclass, 'pg_extension'::regclass))
select x from f where x is not null
"""
