"""Releases whose processes die or hang, before and behind the traffic; what comes between a rollback and its end."""

import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from flows.deploy.flow import deploy
from flows.effect import NotDone
from flows.rollback.flow import rollback
from tests.parts.deaths import DIED, expire, fork, reconcile
from tests.parts.processes import eventually
from tests.parts.rollout import BAKE, ROOT, Rollout, failures

pytestmark = pytest.mark.timeout(240)
LONG = 'minimum = "60s"\nmaximum = "90s"'


@pytest.fixture
def kept(lab: Rollout) -> str:
    """The commit that is kept behind the one that serves; bakes are short again."""
    lab.short_bakes()
    before = lab.serves()
    lab.repository.release("feat: one more", {})
    deploy("test")
    return before


def killed(lab: Rollout, commit: str, by: signal.Signals = signal.SIGKILL) -> list[int]:
    """The processes of that commit, which got the signal."""
    pids = [pid for slot in lab.world.platform.slots().values() if slot.commit == commit for pid in slot.pids]
    for pid in pids:
        os.kill(pid, by)
    return pids


def test_a_deploy_over_a_release_that_died_is_no_first_one(
    lab: Rollout, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    dead = lab.serves()
    assert killed(lab, dead)
    lab.repository.release("feat: fails its checks", {"empty": True})
    with pytest.raises(NotDone, match="its smoke tests failed"):
        deploy("test")
    assert kept in lab.runs().values()  # what it displaced is back
    head = lab.repository.release("fix: what died", {})
    said = deploy("test")
    assert "KEPT" in said
    assert "first release" not in said
    assert f"{dead[:8]} has the traffic and does not live: the new release stays" in caplog.text
    assert "KEPT, as what served before is dead: UNPROVEN" in said
    assert (lab.serves(), lab.newest.release.previous) == (head, dead)


@pytest.mark.usefixtures("kept")
def test_what_replaced_a_dead_release_stays_whatever_is_found_and_whoever_dies(lab: Rollout) -> None:
    """An undo would give the traffic to nothing."""
    assert killed(lab, lab.serves())
    bad = lab.repository.release("fix: what died, badly", {"errors": 0.5, "errors_after": 60})
    lab.toml()
    with lab.visited(), pytest.raises(NotDone, match="HELD, as what served before is dead: BAD") as held:
        deploy("test")
    assert bad[:8] in str(held.value)
    assert lab.serves() == bad
    assert killed(lab, bad)
    head = lab.repository.release("fix: both", {})
    assert fork(lambda: deploy("test"), "commit").ended() == DIED
    expire(lab.scene.ledger)
    reconcile(lab.world.ledger)
    assert (lab.serves(), lab.newest.state) == (head, "done")


def test_traffic_is_given_back_to_nothing_dead(lab: Rollout) -> None:
    """What was kept dies while the new release bakes; evidence against that one starts it again first."""
    lab.toml()
    before, died = lab.serves(), threading.Event()
    lab.repository.release("feat: worse than a dead one", {"errors": 0.4, "errors_after": 60})

    def kills() -> None:
        eventually(lambda: lab.serves() != before, 60)
        if killed(lab, before):
            died.set()

    with lab.visited() as log:
        time.sleep(4)  # for a baseline
        killing = threading.Thread(target=kills)
        killing.start()
        with pytest.raises(NotDone, match="ROLLED BACK"):
            deploy("test")
        killing.join(60)
    assert died.is_set()
    assert lab.serves() == before
    assert not [line for line in failures(log) if "answered 500" not in line]


def test_a_kept_process_that_hangs_is_built_again(lab: Rollout, kept: str) -> None:
    stopped = killed(lab, kept, signal.SIGSTOP)
    assert "it is built again" in rollback("test", to=kept[:10], dry_run=True)
    assert f"({kept[:8]}) serves again" in rollback("test", to=kept[:10], reason="a test")
    assert lab.serves() == kept
    assert not {slot.pids[0] for slot in lab.world.platform.slots().values()} & set(stopped)


def test_a_deploy_during_a_rollback_is_told_who_is_at_work(lab: Rollout, kept: str) -> None:
    now = lab.serves()
    lab.repository.release("feat: at the wrong time", {})
    process = fork(lambda: rollback("test", to=kept[:10], reason="a test"), "shift to *:intent", "stop")
    assert process.stopped()
    with pytest.raises(NotDone, match=r"test/release is held by rollback .* since"):
        deploy("test")
    assert lab.serves() == now
    assert process.wake() == 0
    assert lab.serves() == kept


def test_whether_a_rollback_helped_is_not_judged_by_what_replaces_it(lab: Rollout, kept: str) -> None:
    """A fix goes live while the rollback is still watched: nothing is said against what was restored."""
    lab.toml(BAKE, LONG)
    said: list[str] = []
    watching = threading.Thread(target=lambda: said.append(rollback("test", to=kept[:10], reason="a test")))
    watching.start()
    eventually(lambda: lab.serves() == kept, 60)
    lab.short_bakes()
    head = lab.repository.release("fix: forward", {})
    eventually(lambda: not lab.world.ledger.open(), 60)
    assert "KEPT" in deploy("test")
    watching.join(60)
    assert lab.serves() == head
    assert "whether it helped is not proven: WATCHING" in said[0]


def test_the_runbook_gives_the_traffic_back_without_a_ledger(lab: Rollout, kept: str) -> None:
    if not shutil.which("socat"):
        pytest.skip("socat is not installed")
    text = (ROOT / "docs" / "runbooks" / "rollback.md").read_text(encoding="utf-8")
    script = text.partition("```sh\n# back.sh")[2].partition("```")[0]
    slots = {slot.commit: name for name, slot in lab.world.platform.slots().items()}
    bad, balancer = lab.serves(), lab.world.traffic
    words = ["bash", "-s", balancer.socket, balancer.backend, slots[kept], slots[bad]]

    done = subprocess.run(words, input=f"# {script}", text=True, capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
    assert lab.serves() == kept
    assert balancer.shares() == {str(slots[kept]): 100, str(slots[bad]): 0}
    balancer.shift({str(slots[kept]): 0, str(slots[bad]): 100})
