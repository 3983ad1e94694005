"""A fingerprint of a database's schema, from its catalogues: names only, no OIDs, no order.

`pg_dump -s` would not do: it prints a random key, so that two dumps of one schema differ.
"""

from contextlib import closing

from blocks.postgres.address import Address, said

FINGERPRINT = r"""
with n as (select oid, nspname from pg_namespace
  where nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_(toast|temp)'),
f(x) as (
  select format('col %s.%s.%s %s %s %s', nspname, relname, attname, format_type(atttypid, atttypmod), attnotnull,
      coalesce(pg_get_expr(adbin, adrelid), ''))
    from pg_attribute a join pg_class c on c.oid = attrelid join n on n.oid = relnamespace
    left join pg_attrdef d on adrelid = attrelid and adnum = attnum
    where attnum > 0 and not attisdropped and relkind in ('r', 'p', 'v', 'm', 'f')
  union all select format('view %s %s', c.oid::regclass, pg_get_viewdef(c.oid))
    from pg_class c join n on n.oid = relnamespace where relkind in ('v', 'm')
  union all select format('idx %s', pg_get_indexdef(indexrelid))
    from pg_index join pg_class c on c.oid = indexrelid join n on n.oid = relnamespace
  union all select format('con %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(k.oid))
    from pg_constraint k join n on n.oid = connamespace where conrelid <> 0
  union all select format('fun %s.%s(%s) %s', nspname, proname, pg_get_function_identity_arguments(p.oid), md5(prosrc))
    from pg_proc p join n on n.oid = pronamespace
  union all select format('enum %s %s', enumtypid::regtype, string_agg(enumlabel, ',' order by enumsortorder))
    from pg_enum group by enumtypid
  union all select format('trg %s', pg_get_triggerdef(oid)) from pg_trigger where not tgisinternal
  union all select format('pol %s.%s %s %s %s %s %s', schemaname, tablename, policyname, cmd, roles, qual, with_check)
    from pg_policies)
select encode(sha256(convert_to(coalesce(string_agg(x, E'\n' order by x collate "C"), ''), 'UTF8')), 'hex') from f
"""


def schema_fingerprint(address: Address) -> str:
    """SHA-256, as hex, of everything that the schema defines; the same again after what was added is dropped."""
    with closing(address.connect(statement_timeout_s=30)) as connection, said(f"reading the schema of {address}"):
        row = connection.execute(FINGERPRINT).fetchone()
        return str(row[0]) if row else ""
