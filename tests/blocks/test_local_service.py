import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from blocks.errors import Refused
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from deployments.local.data import Draw, fill
from deployments.local.database import ServiceDatabase
from tests.parts.postgres import PASSWORD, drop_database, make_database

SUMS = "select md5(string_agg(t::text, '|' order by t::text)) from public.{} t"
TABLES = (
    "users",
    "videos",
    "playlists",
    "playlist_videos",
    "search_logs",
    "api_logs",
    "sessions",
    "logs",
    "migrations",
)


def sums(address: Address) -> list[object]:
    with address.connect() as connection:
        return [connection.execute(SUMS.format(table).encode()).fetchone() for table in TABLES]


def ask(base: str, path: str, body: object = None) -> httpx.Response:
    return httpx.get(base + path) if body is None else httpx.post(base + path, json=body)


def count(address: Address, table: str) -> int:
    with address.connect() as connection:
        row = connection.execute(sql.SQL("select count(*) from public.{}").format(sql.Identifier(table))).fetchone()
        return row[0] if row else 0


def started(address: Address, traits: Path | None = None) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "deployments.local.service", "--port", "0", "--megabytes", "0.1"]
    process = subprocess.Popen(
        [*command, *(["--traits", str(traits)] if traits else [])],
        env={**os.environ, "DATABASE_URL": address.url(), "APP_VERSION": "v42"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    port = process.stdout.readline().split()[-1]
    return process, f"http://127.0.0.1:{port}"


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    with process:
        return process.wait(20)


@pytest.fixture(scope="module")
def place(postgres17: Cluster) -> Generator[Address]:
    address = make_database(postgres17)
    yield address
    drop_database(address)


@pytest.fixture(scope="module")
def base(place: Address) -> Generator[str]:
    process, base = started(place)
    assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    yield base
    assert ended(process) == 0


@pytest.mark.parametrize("path", ["/health", "/api/health", "/api/videos/trending", "/api/auth/status", "/metrics"])
def test_each_endpoint_of_the_original_design_answers(base: str, path: str) -> None:
    answer = ask(base, path)
    assert answer.status_code == 200
    assert re.fullmatch(r"[\d.]+ms", answer.headers["x-response-time"])


def test_health_names_the_release(base: str) -> None:
    assert ask(base, "/health").json()["version"] == "v42"


def test_trending_is_korean_and_sorted(base: str) -> None:
    videos = ask(base, "/api/videos/trending").json()["videos"]
    assert len(videos) == 20
    assert [video["view_count"] for video in videos] == sorted((v["view_count"] for v in videos), reverse=True)
    assert any("가" <= letter <= "힣" for letter in videos[0]["title"])


def test_a_video_is_added_once(base: str, place: Address) -> None:
    video = {"youtube_id": "abcdefghij_", "title": "it's 고양이; drop table", "channel": "채널"}
    before = count(place, "videos")
    assert [ask(base, "/api/videos", video).status_code for _ in range(2)] == [201, 409]
    assert count(place, "videos") == before + 1


@pytest.mark.parametrize("body", [None, [], {"youtube_id": "short", "title": "x", "channel": "y"}, {"title": "\0"}])
def test_what_is_no_video_is_refused(base: str, body: object) -> None:
    assert ask(base, "/api/videos", "" if body is None else body).status_code == 400


def test_what_is_unknown_or_too_long_is_refused(base: str) -> None:
    assert ask(base, "/nowhere").status_code == 404
    assert ask(base, "/api/videos", {"title": "x" * 70_000}).status_code == 413


def test_each_request_is_a_row_with_its_release(base: str, place: Address) -> None:
    ask(base, "/api/auth/status")
    deadline = time.monotonic() + 5
    question = "select count(*) from public.api_logs where release = 'v42' and path = '/api/auth/status'"
    with place.connect() as connection:
        while connection.execute(question).fetchone() == (0,):
            assert time.monotonic() < deadline
    assert 'path="/api/auth/status",status="200"' in ask(base, "/metrics").text


def test_it_says_503_while_the_database_is_away_and_recovers(base: str, place: Address) -> None:
    close = f"alter database {place.database} allow_connections "
    end = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s"
    with place.at("postgres").connect() as connection:
        connection.execute((close + "false").encode())
        connection.execute(end, [place.database])
        assert {ask(base, "/health").status_code for _ in range(3)} == {503}
        connection.execute((close + "true").encode())
    assert ask(base, "/health").status_code == 200


def visitors(base: str, address: Address) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.local.visitors", "--url", base, "--a-second", "50"],
        env={**os.environ, "SERVICE_DATABASE_URL": address.url()},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_visitors_write_steadily(base: str, place: Address) -> None:
    database, process = place, visitors(base, place)
    try:
        before = [count(database, table) for table in ("search_logs", "api_logs", "sessions", "logs")]
        deadline = time.monotonic() + 20
        while any(
            count(database, t) < n + 5
            for t, n in zip(("search_logs", "api_logs", "sessions", "logs"), before, strict=True)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        assert ended(process) == 0


def test_a_release_has_the_faults_that_its_traits_say(place: Address, tmp_path: Path) -> None:
    traits = tmp_path / "traits.json"
    traits.write_text('{"errors": 1.0, "empty": true}')
    process, base = started(place, traits)
    try:
        assert ask(base, "/api/auth/status").status_code == 500
        assert ask(base, "/health").status_code == 200
        traits.write_text('{"empty": true}')
    finally:
        assert ended(process) == 0
    process, base = started(place, traits)
    try:
        answer = ask(base, "/api/videos/trending")
        assert (answer.json(), answer.headers["x-release"]) == ({"videos": []}, "v42")
    finally:
        assert ended(process) == 0


def test_the_same_size_and_seed_give_the_same_rows_on_every_major(database: Address, database15: Address) -> None:
    for address in (database, database15):
        fill(address, megabytes=0.5)
    assert sums(database) == sums(database15)


def test_another_seed_gives_other_rows() -> None:
    first, again, other = (Draw(seed) for seed in ("1", "1", "2"))
    assert first.hexadecimal(64) == again.hexadecimal(64) != other.hexadecimal(64)


def test_a_filled_database_is_not_filled_again(database: Address) -> None:
    fill(database, megabytes=0.1)
    with pytest.raises(Refused, match="holds the sample's tables already"):
        fill(database, megabytes=0.1)


def test_the_local_pair_is_started_stopped_and_found_again(tmp_path: Path) -> None:
    pair = ServiceDatabase(tmp_path / "service")
    assert not pair.running()
    pair.start()
    try:
        address = pair.address
        fill(pair.service_address, megabytes=0.1)
        pair.start()
        pair.stop()
        assert not pair.running()
        pair.start()
        assert pair.address == address
        assert Address.of_url(pair.url) == address
        deadline = time.monotonic() + 20
        while count(pair.standby.address("app"), "users") != count(address, "users"):
            assert time.monotonic() < deadline
        with address.connect() as connection:  # as a restore brings it back: owners and grants are left out
            connection.execute("create table public.restored (id bigserial, what text)")
        with pair.service_address.connect() as connection:
            assert connection.info.pgconn.ssl_in_use
            assert connection.execute("insert into public.restored (what) values ('a') returning id").fetchone() == (1,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("create role more")
    finally:
        pair.stop()
