-- The ledger. Invariant: for every scope, at every instant, nobody holds it and the world is where the last settled
-- operation left it, or exactly one open operation holds it, at most one of its settings is in doubt, and the journal
-- says of that one where it stood and where it should go. The triggers refuse whatever would break it:
--   SK001  the writer is no longer the holder (its token was replaced, or the operation is settled)
--   SK002  the move is not legal, whoever makes it

create sequence ledger.token;

create table ledger.operation (
  id          bigint generated always as identity primary key,
  key         text not null unique,
  kind        text not null,
  state       text not null default 'acting' check (state in ('acting', 'committed', 'undoing', 'done', 'undone')),
  plan        jsonb not null,
  digest      text not null,
  parent      bigint references ledger.operation,
  token       bigint not null unique default nextval('ledger.token'),
  holder      text not null, -- boot id : pid namespace : pid : start time : random
  lease_s     real not null check (lease_s > 0),
  expires_at  timestamptz not null,
  stop_asked  text,          -- who asked, and why
  attempts    integer not null default 1,
  failures    integer not null default 0,
  tried_at    timestamptz not null default clock_timestamp(),
  trouble     text,
  actor       text,
  approved_by text,
  prefect_run uuid,
  reason      text,
  began_at    timestamptz not null default clock_timestamp(),
  ended_at    timestamptz,
  constraint ended_when_settled check ((ended_at is not null) = (state in ('done', 'undone')))
);
create index open_operation on ledger.operation (id) where ended_at is null;
create index child_operation on ledger.operation (parent) where parent is not null;

-- The primary key is the exclusion: a scope has one holder. A scope of unknown form has no rank and is refused (23502).
create table ledger.hold (
  scope     text primary key,
  rank      smallint not null generated always as (case
              when scope ~ '^[^/]+/release$' then 1
              when scope ~ '^[^/]+/database/[^/]+$' then 2
              when scope ~ '^[^/]+/backups/[^/]+$' then 3
            end) stored,
  operation bigint not null references ledger.operation
);
create index hold_of on ledger.hold (operation);

create table ledger.step (
  operation  bigint not null references ledger.operation,
  name       text not null,
  position   integer not null check (position > 0),
  state      text not null default 'intent' check (state in ('intent', 'done', 'undoing', 'undone')),
  setting    text not null,
  arguments  jsonb not null,
  want       jsonb not null,
  before     jsonb not null,
  back       text not null check (back in ('before', 'nothing', 'never')),
  outcome    jsonb,
  token      bigint not null,
  intent_at  timestamptz not null default clock_timestamp(),
  settled_at timestamptz,
  primary key (operation, name),
  unique (operation, position)
);
create unique index one_step_in_doubt on ledger.step (operation) where state in ('intent', 'undoing');

create table ledger.event (
  id        bigint generated always as identity primary key,
  at        timestamptz not null default clock_timestamp(),
  operation bigint not null references ledger.operation,
  token     bigint not null,
  what      text not null
);
create index event_of on ledger.event (operation, id);

-- ---- what is remembered: the bucket is the home of a backup, these rows are its cache

create table ledger.backup (
  id            text primary key,
  at            timestamptz not null,
  record        jsonb not null,
  operation     bigint, -- who wrote this row, when it was written under a lease
  token         bigint,
  remembered_at timestamptz not null default clock_timestamp(),
  constraint operation_with_token check ((operation is null) = (token is null))
);

create table ledger.proof (
  backup        text not null,
  at            timestamptz not null,
  record        jsonb not null,
  operation     bigint,
  token         bigint,
  remembered_at timestamptz not null default clock_timestamp(),
  primary key (backup, at),
  constraint operation_with_token check ((operation is null) = (token is null))
);

create table ledger."check" (
  backup        text not null,
  rung          smallint not null,
  at            timestamptz not null,
  record        jsonb not null,
  operation     bigint,
  token         bigint,
  remembered_at timestamptz not null default clock_timestamp(),
  primary key (backup, rung, at),
  constraint operation_with_token check ((operation is null) = (token is null))
);

create table ledger.tick (
  name      text primary key,
  at        timestamptz not null default clock_timestamp(),
  operation bigint,
  token     bigint,
  constraint operation_with_token check ((operation is null) = (token is null))
);

-- ---- fence: only the holder writes, and only legal moves

create function ledger.held(operation bigint, token bigint) returns text
language plpgsql set search_path = '' as $$
declare
  now_is record;
begin
  select o.state, o.token, o.ended_at into now_is from ledger.operation o where o.id = held.operation for share;
  if not found then
    raise exception 'there is no operation %', held.operation using errcode = 'SK001';
  end if;
  if now_is.ended_at is not null then
    raise exception 'operation % is settled', held.operation using errcode = 'SK001';
  end if;
  if now_is.token <> held.token then
    raise exception 'operation % is held with token %, not %', held.operation, now_is.token, held.token
      using errcode = 'SK001';
  end if;
  return now_is.state;
end $$;

create function ledger.fence_step() returns trigger
language plpgsql set search_path = '' as $$
declare
  state text := ledger.held(new.operation, new.token);
  moves constant text[] := array['intent>intent', 'intent>done', 'done>done', 'intent>undoing', 'done>undoing',
                                 'undoing>undoing', 'undoing>undone', 'undone>undone'];
begin
  if tg_op = 'INSERT' and new.state <> 'intent' then
    raise exception 'step % begins as %, not as intent', new.name, new.state using errcode = 'SK002';
  end if;
  if tg_op = 'UPDATE' and not (old.state || '>' || new.state) = any (moves) then
    raise exception 'step % cannot go from % to %', new.name, old.state, new.state using errcode = 'SK002';
  end if;
  if tg_op = 'UPDATE' and (new.operation, new.name, new.position, new.setting, new.arguments, new.want, new.before,
      new.back) is distinct from (old.operation, old.name, old.position, old.setting, old.arguments, old.want,
      old.before, old.back) then
    raise exception 'step % is recorded: what it sets cannot change', new.name using errcode = 'SK002';
  end if;
  if state = 'undoing' and new.state in ('intent', 'done') then
    raise exception 'operation % is being undone: step % cannot go forward', new.operation, new.name
      using errcode = 'SK002';
  end if;
  if state <> 'undoing' and new.state in ('undoing', 'undone') then
    raise exception 'operation % is %: step % cannot be undone', new.operation, state, new.name using errcode = 'SK002';
  end if;
  if state = 'acting' and new.back = 'never' then
    raise exception 'step % is one way: it is allowed only after the commit', new.name using errcode = 'SK002';
  end if;
  if new.state = 'undoing' and exists (select from ledger.step s where s.operation = new.operation
      and s.position > new.position and s.state <> 'undone') then
    raise exception 'step % is not the last one: undoing goes in reverse', new.name using errcode = 'SK002';
  end if;
  if tg_op = 'UPDATE' and new.state in ('done', 'undone') and old.state <> new.state then
    new.settled_at := clock_timestamp();
  end if;
  return new;
end $$;
create trigger fence before insert or update on ledger.step for each row execute function ledger.fence_step();

create function ledger.fence_record() returns trigger
language plpgsql set search_path = '' as $$
begin
  if new.operation is not null then
    perform ledger.held(new.operation, new.token);
  end if;
  return new;
end $$;
create trigger fence before insert or update on ledger.backup for each row execute function ledger.fence_record();
create trigger fence before insert or update on ledger.proof for each row execute function ledger.fence_record();
create trigger fence before insert or update on ledger."check" for each row execute function ledger.fence_record();
create trigger fence before insert or update on ledger.tick for each row execute function ledger.fence_record();

-- ---- legal: an operation moves one way, and settling alone frees its scopes

create function ledger.legal() returns trigger
language plpgsql set search_path = '' as $$
declare
  moves constant text[] := array['acting>acting', 'acting>committed', 'acting>undoing', 'committed>committed',
                                 'committed>done', 'undoing>undoing', 'undoing>undone'];
begin
  if old.ended_at is not null then
    raise exception 'operation % is settled: it never changes', old.id using errcode = 'SK001';
  end if;
  if not (old.state || '>' || new.state) = any (moves) then
    raise exception 'operation % cannot go from % to %', old.id, old.state, new.state using errcode = 'SK002';
  end if;
  if (new.id, new.key, new.kind, new.plan, new.digest, new.parent, new.began_at) is distinct from
      (old.id, old.key, old.kind, old.plan, old.digest, old.parent, old.began_at) or new.token < old.token then
    raise exception 'operation % is recorded: its key, kind, plan and parent cannot change, its token only grow', old.id
      using errcode = 'SK002';
  end if;
  if new.state in ('done', 'undone') and exists (select from ledger.step s where s.operation = new.id
      and s.state <> new.state) then
    raise exception 'operation % is not %: one of its steps is not', old.id, new.state using errcode = 'SK002';
  end if;
  if new.state in ('done', 'undone') then
    new.ended_at := clock_timestamp();
    delete from ledger.hold h where h.operation = new.id;
  end if;
  return new;
end $$;
create trigger legal before update on ledger.operation for each row execute function ledger.legal();

-- Waits point upwards: a child holds only scopes of a higher rank than its ancestors', so no two can wait for each other.
create function ledger.upwards() returns trigger
language plpgsql set search_path = '' as $$
declare
  above record;
begin
  with recursive ancestor as (
    select o.parent as id from ledger.operation o where o.id = new.operation
    union all
    select o.parent from ledger.operation o join ancestor a on o.id = a.id
  )
  select h.scope, h.rank into above from ledger.hold h join ancestor a on a.id = h.operation
    where h.rank >= new.rank order by h.rank desc limit 1;
  if found then
    raise exception 'operation % cannot take %: its parent holds %, which is not below it', new.operation, new.scope,
      above.scope using errcode = 'SK002';
  end if;
  return null;
end $$;
create trigger upwards after insert or update on ledger.hold for each row execute function ledger.upwards();

-- ---- the story of an operation, written by nobody else

create function ledger.tell_step() returns trigger
language plpgsql set search_path = '' as $$
begin
  if tg_op = 'INSERT' or old.state <> new.state then
    insert into ledger.event (operation, token, what) values (new.operation, new.token, new.state || ': ' || new.name);
  end if;
  return null;
end $$;
create trigger tell after insert or update on ledger.step for each row execute function ledger.tell_step();

create function ledger.tell_operation() returns trigger
language plpgsql set search_path = '' as $$
declare
  told text[] := array[]::text[];
begin
  if tg_op = 'INSERT' then
    told := told || ('begun by ' || coalesce(new.actor, new.holder));
  else
    if old.token <> new.token then told := told || ('taken over by ' || new.holder); end if;
    if old.state <> new.state then told := told || (new.state || coalesce(': ' || new.reason, '')); end if;
    if new.stop_asked is distinct from old.stop_asked then told := told || ('asked to stop: ' || new.stop_asked); end if;
    if new.failures > old.failures then told := told || ('trouble: ' || new.trouble); end if;
  end if;
  insert into ledger.event (operation, token, what) select new.id, new.token, t from unnest(told) t;
  return null;
end $$;
create trigger tell after insert or update on ledger.operation for each row execute function ledger.tell_operation();
-- Whose ledger this is: reconcile settles whatever is open in it, in the world of one stage, so that it can't be shared.
create table ledger.stage (
    one boolean primary key default true check (one),
    name text not null
);
