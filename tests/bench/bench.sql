create table users (id integer generated always as identity primary key, mail text unique, name text, born date, settings jsonb);
insert into users (mail, name, born, settings)
  select 'user' || i || '@example.org', (array['김민준', '이서연', 'Anna Schmidt', 'John Smith'])[1 + i % 4] || ' ' || i,
    date '1960-01-01' + i % 15000, jsonb_build_object('theme', i % 3, 'tags', array[i % 7, i % 11], 'note', md5(i::text))
  from generate_series(1, :rows / 10) i;
create table videos (id bigint primary key, yt uuid not null, title text, description text, tags text[], seen timestamptz);
insert into videos select i, md5(i::text)::uuid, '짧은 영상 ' || i || ' short ' || md5(i::text),
    repeat('설명 description ' || i || ' ', 1 + i % 12), array['a' || i % 50, 'b' || i % 90], timestamptz '2026-01-01' + i * interval '1 s'
  from generate_series(1, :rows) i;
create table api_logs (id bigint generated always as identity primary key, at timestamptz, ip inet, path text, status integer, ms float8);
insert into api_logs (at, ip, path, status, ms)
  select timestamptz '2026-01-01' + i * interval '1 s', ('10.0.' || i % 256 || '.' || i % 200)::inet,
    '/api/v1/videos/' || i % 9973 || '?q=' || md5((i % 500)::text), (array[200, 200, 200, 404, 500])[1 + i % 5], random() * 1000
  from generate_series(1, :rows * 4) i;
create table search_logs (id bigint, query text, results integer);
insert into search_logs select i, '검색 ' || md5((i % 2000)::text), i % 100 from generate_series(1, :rows * 4) i;
create index videos_tags on videos using gin (tags);
create index api_logs_at on api_logs (at) where status >= 400;
create index search_logs_query on search_logs (query);
create materialized view daily as select at::date as day, count(*) from api_logs group by 1;
create view failing as select * from api_logs where status >= 500;
alter table users enable row level security;
