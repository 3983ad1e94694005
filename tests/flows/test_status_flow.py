"""status and reconcile: a broken promise fails the run and says which; what a death left is settled and recorded."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from blocks.errors import Refused
from blocks.keys import new_keys
from flows.backup.flow import backup
from flows.catalogue.grades import Graded
from flows.effect import NotDone
from flows.ledger import Ledger
from flows.reconcile import tasks
from flows.records import KINDS
from flows.stage import Stage
from flows.status.flow import status
from flows.status.tasks import look, show
from flows.world import World
from tests.parts.deaths import DIED, expire, fork
from tests.parts.scene import Scene


def broken(sentence: str) -> None:
    with pytest.raises(NotDone, match=sentence):
        status("test")


def test_status_fails_as_long_as_the_promise_is_broken(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    broken("there is no backup; reconcile has never run")
    backup("test", "frequent")
    broken("^reconcile has never run: start a worker$")
    stage.world.ledger.tick("reconcile")
    assert "are allowed" in status("test")

    with stage.ledger.connect() as connection:
        connection.execute("update ledger.tick set at = at - interval '5 min'")
    broken("^reconcile is silent for 5 min")
    stage.world.ledger.tick("reconcile")

    taken = stage.bucket.backups[0]
    stage.world.ledger.forget(taken.id)
    old = datetime.now(UTC) - timedelta(hours=3)
    stage.world.ledger.remember(taken.model_copy(update={"snapshot_at": old}))
    broken(r"is 3 h old, more than the 1 h that are allowed \(RPO\)")
    stage.world.ledger.remember(taken)

    pending = taken.model_copy(update={"id": taken.id[:-6] + "000000", "snapshot_at": old - timedelta(days=9)})
    stage.world.ledger.remember(pending.model_copy(update={"proof_asked_at": old}))
    broken(r"^no proof for 9 d 3 h, 1 asked for and not through \(8 d are allowed\)")
    stage.toml(more="[backup.prove]\n" + "".join(f'{kind} = "never"\n' for kind in KINDS))
    assert "are allowed" in status("test")
    stage.toml()
    stage.world.ledger.forget(pending.id)

    monkeypatch.setenv("LEDGER_URL", "postgresql://nobody@127.0.0.1:9/none")
    broken("nothing answers there")


def test_a_workers_clock_that_runs_ahead_accuses_nobody(stage: Scene) -> None:
    """The tick and the ages are measured by the ledger's clock alone: here it is twenty minutes behind ours."""
    world, behind = stage.world, timedelta(minutes=20)
    world.ledger.tick("reconcile")
    seen = look.fn(world)
    assert seen.ticked
    assert timedelta() <= seen.now - seen.ticked < timedelta(seconds=10)
    now = seen.now - behind
    young = Graded("20261124T020000Z-daily-k3v9q2", now - timedelta(minutes=5), "daily", "proven")
    assert "is 5 min old" in show(world, replace(seen, backups=[young], ticked=seen.ticked - behind, now=now))


def test_reconcile_finishes_a_commit_whose_run_died_and_records_it(stage: Scene) -> None:
    before = {each.id for each in stage.bucket.backups}
    died = fork(lambda: backup("test", "daily"), "commit *:acted")  # after the manifest, before it was remembered
    assert died.ended() == DIED
    new = {each.id for each in stage.bucket.backups} - before
    assert len(new) == 1
    assert not new & {each.id for each in stage.world.ledger.backups()}
    expire(stage.ledger)

    assert "1 record found in the bucket and recorded" in tasks.record_strays.fn(stage.world)
    settle(stage.world.ledger)

    assert not stage.world.ledger.open()
    assert new <= {each.id for each in stage.world.ledger.backups()}
    entry = stage.world.ledger.history(1)[0]
    assert (entry.kind, entry.state) == ("commit backup", "done")


def test_a_ledger_is_one_stages_and_refuses_another(stage: Scene) -> None:
    """Reconcile settles what is open in the world of its stage: of another stage it would settle the wrong world."""
    toml = (Scene.stages(stage.environ) / "test.toml").read_text()
    (Scene.stages(stage.environ) / "other.toml").write_text(toml.replace("tests/", "others/"))
    other = World(Stage.named("other", Scene.stages(stage.environ)), dict(stage.environ))
    mine = "is that of stage test: give other a database of its own"
    for asked in (other.ledger.tick_once, other.ledger.migrate, other.ledger.backups):
        with pytest.raises(Refused, match=mine):
            asked()


def test_neither_keys_that_differ_nor_a_newer_record_keep_reconcile_from_settling(stage: Scene) -> None:
    stage.toml(more=f'[pinned_keys]\nrecipients = ["{new_keys().team_recipient}"]\n')
    try:
        assert tasks.record_strays.fn(stage.world) == "the bucket was not compared"
    finally:
        stage.toml()
    with stage.ledger.connect() as connection:
        connection.execute("""update ledger.backup set record = record || '{"newer": 1}'""")
        assert tasks.record_strays.fn(stage.world) == "the bucket was not compared"
        connection.execute("update ledger.backup set record = record - 'newer'")


def settle(ledger: Ledger) -> None:
    for _ in range(10):
        ledger.tick_once()
        time.sleep(0.1)
