create extension pg_trgm; create extension citext;
create schema crypto; create extension pgcrypto schema crypto;
create type mood as enum ('sad', 'it''s ok', '행복');
create domain positive as integer default 1 constraint is_positive check (value > 0);
create type pair as (a integer, b text);
create type span as range (subtype = float8, subtype_diff = float8mi);
create function double(n integer) returns integer language sql immutable as 'select n * 2';
create function stamp() returns trigger language plpgsql as $$ begin new.changed := now(); return new; end $$;
create procedure nothing_much() language plpgsql as $$ begin null; end $$;
create aggregate product(integer) (sfunc = int4mul, stype = integer, initcond = '1');
create table people (
  id bigint generated always as identity (start 100 increment 5) primary key,
  name citext not null unique, mood mood default 'sad', age positive, address pair, spans span,
  status varchar(10) check (status in ('new', 'old')), doubled integer generated always as (double(age)) stored,
  secret bytea default crypto.digest('x', 'sha256'), changed timestamptz, tags text[], document jsonb, kept xml);
create index people_trigrams on people using gin ((name::text) gin_trgm_ops);
create index people_old on people (age desc nulls last) where status = 'old';
create trigger people_stamp before update on people for each row execute function stamp();
comment on table people is 'who they are'; comment on column people.age is 'in years';
insert into people (name, age, address, spans, status, tags, document, kept)
  select 'name ' || i, i, row(i, 'b"' || i)::pair, span(i, i + 1), 'new', array['a', null, 'c,"d'], '{"k": [1, 2]}', '<a>b</a>'
  from generate_series(1, 500) i;
update people set mood = '행복' where age % 3 = 0;
create table numbers (n numeric, f float8, r real, d date, t timestamp, i interval, money money, j json, b bit varying);
insert into numbers values
  ('NaN', 'NaN', 'infinity', 'infinity', '-infinity', '1 year -2 days 00:00:03.5', 12.34, '{"a":  1}', B'101'),
  ('12345678901234567890.123456789', 0.1::float8 + 0.2::float8, 1e-37, '4713-01-01 BC', '0044-03-15 12:00 BC', null, -1, null, null),
  (null, '-infinity', null, '5874897-12-31', '294276-12-31 23:59:59.999999', '-178000000 years', null, '[]', '');
create table texts (t text);
insert into texts values (E'tab\t, newline\n, back\\slash, \\N'), (''), (null), (E'\\.'), (E'\u0001\r');
create table parts (id integer, at date, note text) partition by range (at);
create table parts_2025 partition of parts for values from ('2025-01-01') to ('2026-01-01') partition by list (id);
create table parts_2025_1 partition of parts_2025 for values in (1, 2);
create table parts_rest partition of parts default;
create index on parts (id);
insert into parts values (1, '2025-05-05', 'a'), (2, '2025-06-06', 'b'), (3, '2027-01-01', 'c');
create table parent (id integer primary key, a text); create table child (b text) inherits (parent);
alter table parent add column added integer default 7;
insert into parent values (1, 'p'); insert into child values (2, 'c', 'own', 3);
create table nothing (); insert into nothing default values; insert into nothing default values;
create table only_generated (g integer generated always as (1) stored); insert into only_generated default values;
create unlogged table fleeting (a integer); insert into fleeting values (1);
create table secrets (owner name, what text); alter table secrets enable row level security;
create policy own on secrets as restrictive for select to reader using (owner = current_user);
insert into secrets values ('a', 'b');
create view adults as select name, age from people where age > 17;
create materialized view ages as select age % 10 as decade, count(*) from people group by 1;
create unique index on ages (decade);
create rule no_delete as on delete to texts do instead nothing;
create sequence free start -10 increment -5 minvalue -9223372036854775808 cycle; select nextval('free'), nextval('free');
create sequence untouched;
create schema "schéma 'q' ""d"" \ 한글"; create table "schéma 'q' ""d"" \ 한글"."t %s a.b/c" ("c,d ""e""" integer primary key, "한글" text);
insert into "schéma 'q' ""d"" \ 한글"."t %s a.b/c" values (1, 'x'), (2, '가');
alter table people add constraint self foreign key (id) references people (id) not valid;
alter table people alter column tags set statistics 500; create statistics together on age, mood from people;
select lo_from_bytea(0, 'small'), lo_from_bytea(0, convert_to(repeat('big ', 700000), 'UTF8')), lo_create(0);
create foreign data wrapper nowhere; create server away foreign data wrapper nowhere;
create foreign table remote (a integer) server away;
create collation german (provider = libc, locale = 'C');
create operator === (leftarg = integer, rightarg = integer, function = int4eq);
create publication news for table people;
create function stamp_ddl() returns event_trigger language plpgsql as 'begin end';
create event trigger watch on ddl_command_end execute function stamp_ddl();
