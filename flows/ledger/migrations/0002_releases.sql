-- What is remembered of releases. A release's status is not a column: it is derived from its operation.

create table ledger.release (
  key         text primary key, -- the operation's own
  at          timestamptz not null,
  commit      text not null,
  record      jsonb not null,
  operation   bigint,
  token       bigint,
  constraint operation_with_token check ((operation is null) = (token is null))
);
create index release_of on ledger.release (operation);

-- From when it served, and what the version before it looked like: written once, before the first look.
create table ledger.bake (
  release     text primary key references ledger.release on delete cascade,
  live_at     timestamptz not null,
  record      jsonb not null,
  operation   bigint,
  token       bigint,
  constraint operation_with_token check ((operation is null) = (token is null))
);

-- What was seen in one look. It changes nothing in the world, so that it is not fenced: a bake may run without an operation.
create table ledger.look (
  release     text not null references ledger.release on delete cascade,
  at          double precision not null, -- its end, in seconds since the release went live
  record      jsonb not null,
  primary key (release, at)
);

create table ledger.gate (
  release     text not null references ledger.release on delete cascade,
  name        text not null,
  record      jsonb not null,
  primary key (release, name)
);

-- The message in which people were told of it: whoever goes on with the release edits the same one.
create table ledger.notice (
  release     text primary key references ledger.release on delete cascade,
  record      jsonb not null
);

-- A commit that was taken back is not gone back to, and not deployed again, unless the stage's TOML pardons it.
create table ledger.quarantine (
  commit      text primary key,
  at          timestamptz not null default clock_timestamp(),
  reason      text not null
);

create trigger fence before insert or update on ledger.release for each row execute function ledger.fence_record();
create trigger fence before insert or update on ledger.bake for each row execute function ledger.fence_record();
