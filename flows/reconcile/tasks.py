"""What reconcile does: one look at the bucket, then tick after tick until its time is over."""

import threading
import time
from collections.abc import Collection, Sequence
from contextvars import copy_context
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.responses import SetStateStatus
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Crashed

import flows.backup.steps
import flows.deploy.steps
import flows.prune.steps
import flows.restore.steps
import flows.rollback.steps
from blocks.errors import BlockError, Unreachable
from flows import people
from flows.catalogue.tasks import read_bucket, record_in_ledger
from flows.effect import Hidden, NotDone, effect, plain
from flows.reconcile.heartbeats import Heard
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
LISTEN_S = 30.0
HEARTBEAT = "prefect.flow-run.heartbeat"
RUNNING = {"state": {"type": {"any_": ["RUNNING"]}}}
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
    over, at_work = threading.Event(), threading.Event()
    if not plain() and flow_run.id:
        here = copy_context()
        threading.Thread(
            target=here.run, args=[_listen_on, world, UUID(str(flow_run.id)), at_work, over], daemon=True
        ).start()
    while time.monotonic() < end:
        try:
            told = world.ledger.tick_once()
            said = [line for line in told if line != WAITS]
            silent_since = 0.0
            (at_work.clear if WAITS in told else at_work.set)()
        except Unreachable as silent:
            said = [] if silent_since else [f"the ledger does not answer: {silent}"]
            silent_since = silent_since or time.monotonic()
        for line in said:
            people.say(line)
        settled += len(said)
        over.wait(min(TICK_S, max(end - time.monotonic(), 0.0)))
    over.set()
    return f"{count(settled, 'thing')} settled or said in {LIVES_S / 60:.0f} min"


def _listen_on(world: World, own: UUID, at_work: threading.Event, over: threading.Event) -> None:
    """Beside the ticks, as long as they go on: a Prefect server that hangs holds up nothing but this."""
    heard, away = Heard(), False
    while not over.wait(LISTEN_S):
        if not at_work.is_set():
            heard = Heard()
            continue
        try:
            holding = {entry.prefect_run for entry in world.ledger.open() if entry.prefect_run}
            heard, said = listen(world.stage.name, own, heard, holding)
            away = False
        except (HTTPError, PrefectException, ValueError, Unreachable) as error:
            said = [] if away else [f"who is still running could not be asked: {type(error).__name__}"]
            heard, away = Heard(), True
        for line in said:
            people.say(line)


def listen(stage: str, own: UUID, heard: Heard, holding: Collection[UUID]) -> tuple[Heard, list[str]]:
    """One look at who still runs on the stage's pool: a run that fell silent is marked Crashed, and named.

    A dump, a proof and a look hold no operation: when worker and run die together, nobody else says so of them. Who
    is `holding` one is judged by its lease alone.
    """
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(RUNNING),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [stage]}}),
        )
        running = [run for run in found if run.id not in holding]
        heard = heard.and_now(own, _newest_heartbeats(client, [own, *(run.id for run in running)]))
        dead = [run for run in running if run.id in heard.silent and _is_marked(client, run.id)]
    return heard, [f"marked run {run.name} as crashed: its process is dead" for run in dead]


def _is_marked(client: SyncPrefectClient, run: UUID) -> bool:
    """Now Crashed; not one that ended meanwhile."""
    crashed = Crashed(message="no heartbeat any more: its process is dead")
    return client.set_flow_run_state(run, crashed).status == SetStateStatus.ACCEPT


def _newest_heartbeats(client: SyncPrefectClient, runs: Sequence[UUID]) -> dict[UUID, UUID]:
    return {run: event.id for run in runs for event in client.read_events(_heartbeats_of(run), limit=1).events}


def _heartbeats_of(run: UUID) -> EventFilter:
    resource = EventResourceFilter(id=[f"prefect.flow-run.{run}"])
    return EventFilter(event=EventNameFilter(name=[HEARTBEAT]), resource=resource)
