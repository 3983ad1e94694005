"""What reconcile does: one look at the bucket, then tick after tick until its time is over."""

import threading
import time

import flows.backup.steps
import flows.deploy.steps
import flows.prune.steps
import flows.restore.steps
import flows.rollback.steps
from blocks.errors import BlockError, Unreachable
from flows import people
from flows.catalogue.tasks import read_bucket, record_in_ledger
from flows.effect import Hidden, NotDone, effect
from flows.words import count
from flows.world import World

LISTS = (
    flows.backup.steps.commit,
    flows.prune.steps.remove,
    flows.restore.steps.bring_back,
    flows.restore.steps.swap_in,
    flows.deploy.steps.migrate,
    flows.deploy.steps.roll_out,
    flows.rollback.steps.go_back,
)
"""Every step list of the house: a row of the journal can only be rebuilt where its list is imported."""
LIVES_S = 65 * 60.0
TICK_S = 5.0
WAITS = "another reconcile is at work: this one waits"


@effect(name="record what the ledger missed", retries=0)
def record_strays(world: World) -> str:
    """Backups and proofs that only the bucket knows, as a process died in between; and what the ledger may forget."""
    try:
        bucket = read_bucket(world.reading, world.keys, world.stage)
        recorded = record_in_ledger(world, bucket)
        people.say(world.ledger.sweep())
        return f"{count(recorded, 'record')} found in the bucket and recorded"
    except Exception as trouble:  # noqa: BLE001 - whatever is wrong with keys or records: what died is settled
        said = trouble if isinstance(trouble, (BlockError, NotDone, Hidden)) else type(trouble).__name__
        people.say(f"the bucket could not be compared with the ledger: {said}")
        return "the bucket was not compared"


@effect(name="keep watch", retries=0)
def keep_watch(world: World) -> str:
    """Tick until the time is over; a ledger that does not answer for a while is asked again at the next tick."""
    end, settled, silent_since = time.monotonic() + LIVES_S, 0, 0.0
    pause = threading.Event()
    while time.monotonic() < end:
        try:
            said = [line for line in world.ledger.tick_once() if line != WAITS]
            silent_since = 0.0
        except Unreachable as silent:
            said = [] if silent_since else [f"the ledger does not answer: {silent}"]
            silent_since = silent_since or time.monotonic()
        for line in said:
            people.say(line)
        settled += len(said)
        pause.wait(min(TICK_S, max(end - time.monotonic(), 0.0)))
    return f"{count(settled, 'thing')} settled or said in {LIVES_S / 60:.0f} min"
