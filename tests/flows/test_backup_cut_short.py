"""A backup whose store refuses amid an upload is none: one sentence, a record; what stays is listed, and swept."""

import pytest

from flows.backup.flow import backup
from flows.catalogue.flow import catalogue
from flows.catalogue.layout import home_of
from flows.effect import NotDone
from flows.prune.steps import PrunePlan, remove
from tests.parts.porter import porter
from tests.parts.scene import Scene
from tests.parts.store import NOISE

WORDS = "these credentials may not; grant them s3:PutObject here (AccessDenied)"


def test_a_backup_that_the_store_refuses_amid_an_upload_is_none_and_what_it_left_is_listed_and_swept(
    stage: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    with stage.database.connect() as connection:
        connection.execute(NOISE)
    stage.toml(more="[backup]\nworkers = 1\n")  # one after the other: the papers are there when the rows are refused
    with porter(str(stage.place.endpoint), 2, "refuses all") as standing, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", standing.endpoint)
        with pytest.raises(NotDone) as refused:
            backup("test")
    sentence = str(refused.value)
    assert sentence.startswith("could not write part ")
    assert sentence.endswith(f"/data/00000.public.noise.copy.zst.age: {WORDS}")

    seen, world = stage.bucket, stage.world
    (upload,) = stage.objects.uploads()
    (folder,) = seen.shelf.growing
    assert not seen.found
    assert home_of(world.stage).owner(upload.key) == folder
    assert not [entry.key for entry in stage.objects.list() if "manifest" in entry.key]
    assert [(each.state, each.error) for each in world.ledger.backups()] == [("failed", sentence)]
    catalogue("test")
    assert f"unfinished upload since {upload.started:%Y-%m-%d %H:%M}" in caplog.text

    left = ((upload.key, upload.id),)
    plan = PrunePlan(stage="test", database=world.stage.database.name, victims=(), orphans=(folder,), uploads=left)
    world.carry_out(remove, plan, key="as prune does after the grace")
    assert not list(stage.objects.list())
    assert not list(stage.objects.uploads())
    assert "100,500 rows of 2 tables" in backup("test")
