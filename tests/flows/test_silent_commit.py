"""The ledger falls silent between the two answers of a commit: the backup is there whole, and recorded afterwards."""

from collections.abc import Generator
from contextlib import closing

import pytest

from flows.backup.flow import backup
from flows.catalogue.layout import home_of
from flows.reconcile.tasks import record_strays
from tests.parts.deaths import Fork, expire, fork, reconcile
from tests.parts.environment import url_of
from tests.parts.killing import Book
from tests.parts.scene import Scene
from tests.parts.wire import Wire

LONGER_THAN_THE_TEST_S = 120
RAN_OUT = "select pg_sleep_until(max(expires_at)) from ledger.operation where ended_at is null"


@pytest.fixture
def wire(stage: Scene) -> Generator[Wire]:
    """A way to the ledger; its lease is short, as a silent ledger is waited for by the lease."""
    stage.toml('lease = "3s"', 'lease = "1s"')
    with closing(Wire(stage.ledger)) as wire:
        yield wire
    stage.toml()
    expire(stage.ledger)
    reconcile(stage.world.ledger)


def at_the_door(stage: Scene, wire: Wire) -> tuple[Fork, str]:
    """A backup that stands still between intent and manifest, its ledger beyond the wire; with its id."""
    ledger = stage.world.ledger
    assert ledger.open() == []  # its connection is there, as the lease is short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEDGER_URL", url_of(wire.address))
        process = fork(lambda: backup("test", "daily"), "commit *:intent", "stop")
    assert process.stopped()
    (entry,) = ledger.open()
    return process, entry.key.removeprefix("commit ")


def whole(stage: Scene, made: str) -> bytes:
    """The manifest of a backup that is listed and not half; what its folder says."""
    found = stage.one(made)
    assert found
    assert not stage.half(made)
    return stage.objects.get(f"{found.folder}manifest.json")


def recorded(stage: Scene, made: str) -> list[str]:
    return [each.state for each in stage.world.ledger.backups() if each.id == made]


@pytest.mark.parametrize("lease", ["good", "stale"])
def test_it_is_committed_alone_and_reconcile_records_it(stage: Scene, wire: Wire, lease: str) -> None:
    """With a good lease the manifest goes out and the ledger misses it; with a stale one the process asks first."""
    process, made = at_the_door(stage, wire)
    if lease == "stale":  # else there is no time for a look at the bucket
        assert list(stage.objects.list(home_of(stage.world.stage).of(made)))
        assert stage.one(made) is None  # all its objects, and no manifest: nobody believes it
        with stage.ledger.connect() as connection:
            connection.execute(RAN_OUT)
    wire.freeze(LONGER_THAN_THE_TEST_S)

    assert process.wake() == 0

    manifest, book = whole(stage, made), Book(stage.world.ledger, f"commit {made}")
    assert (b'"operation":null' in manifest) == (lease == "stale")
    assert book.operation()["state"] == "committed"  # still open: its holder could not say that it is done
    assert [each["state"] for each in book.steps()] == ["intent"]
    assert recorded(stage, made) == []

    expire(stage.ledger)
    reconcile(stage.world.ledger)
    assert book.operation()["state"] == "done"
    assert book.wrong() == []
    record_strays(stage.world)
    assert recorded(stage, made) == ["complete"]
    assert whole(stage, made) == manifest


def test_one_that_reconcile_committed_meanwhile_is_left_as_it_is(stage: Scene, wire: Wire) -> None:
    process, made = at_the_door(stage, wire)
    with stage.ledger.connect() as connection:
        connection.execute(RAN_OUT)
    reconcile(stage.world.ledger)
    manifest, story = whole(stage, made), Book(stage.world.ledger, f"commit {made}").told()
    wire.go_away(LONGER_THAN_THE_TEST_S)

    assert process.wake() == 0

    assert whole(stage, made) == manifest
    assert Book(stage.world.ledger, f"commit {made}").told() == story
    record_strays(stage.world)
    assert recorded(stage, made) == ["complete"]
