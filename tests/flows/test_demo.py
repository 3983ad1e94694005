"""The demo ends with a sentence when a step falls short: each is shown what it must not take for success."""

from subprocess import CompletedProcess
from typing import Any

import pytest

from blocks.postgres.address import Address
from deployments.local.data import fill
from deployments.local.demo import Videos, find_rows, lose_rows, refused_as_tampered
from flows.effect import NotDone
from tests.decide.builders import manifest, read

WRITTEN = "data/00001.public.videos.copy.zst.age is not what was written: the store's sha256 is not the manifest's"

VISIT = """insert into public.videos (youtube_id, title, channel, seconds, published_at)
    values ('AAAAAAAAAAA', '', '', 1, now())"""


@pytest.fixture
def sample(database: Address) -> Address:
    """The sample's tables with their fewest rows."""
    fill(database, megabytes=0.1)
    return database


def run(database: Address, statement: str) -> None:
    with database.connect() as connection:
        connection.execute(statement.encode())


def test_rows_are_lost_once(sample: Address) -> None:
    assert lose_rows(sample) == 30
    with pytest.raises(NotDone, match="nothing to restore"):
        lose_rows(sample)


def test_the_backups_rows_are_back_to_the_last_one_whatever_visitors_add(sample: Address) -> None:
    held = Videos(rows=30, last=30)
    run(sample, VISIT)
    assert find_rows(sample, held, "app_before").startswith("30 videos are back")
    run(sample, "delete from public.playlist_videos; delete from public.videos where id = 7")
    with pytest.raises(NotDone, match="29 of the backup's 30 videos are back"):
        find_rows(sample, held, "app_before")
    lose_rows(sample)
    with pytest.raises(NotDone, match="0 of the backup's 30 videos are back"):
        find_rows(sample, held, "app_before")


def test_what_the_backup_held_is_read_from_its_manifest() -> None:
    written: dict[str, Any] = manifest()
    written["tables"] = [written["tables"][0] | {"name": "videos"}]
    written["objects"] = [
        each | {"key": "data/00000.public.videos.copy.zst.age"} if each["role"] == "data" else each
        for each in written["objects"]
    ]
    assert Videos.of(read(written)) == Videos(rows=3, last=9223372036854775807)


def test_a_tampered_copy_must_be_refused_and_for_what_it_is() -> None:
    assert refused_as_tampered(CompletedProcess([], 1, stderr=f"looking\n{WRITTEN}\n")) == f"refused: {WRITTEN}"
    for code, said in ((0, WRITTEN), (1, "nothing answers there"), (1, "")):
        with pytest.raises(NotDone, match="the tampered copy was not refused for what it is"):
            refused_as_tampered(CompletedProcess([], code, stderr=said))
