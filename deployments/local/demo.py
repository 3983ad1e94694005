"""The demo: a database backed up and proven, releases kept and taken back, rows lost and restored, as a team does it.

It asks for runs by `prefect deployment run`, watches them, and checks what came of them. Any step that falls short ends
it non-zero with one sentence.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from psycopg import sql
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from blocks.errors import Unreachable
from blocks.postgres.address import Address
from blocks.storage.objects import S3Place
from deployments.local.data import fill
from deployments.local.database import ServiceDatabase
from deployments.local.releases import Releases, tell
from deployments.local.stage import PREFECT, ROOT, LocalStage, down, is_up, running_stage, up
from flows.catalogue.layout import home_of
from flows.catalogue.manifest import Manifest
from flows.catalogue.tasks import read_one
from flows.effect import NotDone
from flows.people import plan_in_form
from flows.records import Backup, Proof
from flows.stage import Stage
from flows.words import count, duration, size
from flows.world import World

FEW = 1000  # videos; the sample has 18 000
RUN_SECONDS = 240.0
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Videos:
    """The videos of a backup: how many, and the last number that was given away when it was taken."""

    rows: int
    last: int

    @classmethod
    def of(cls, manifest: Manifest) -> "Videos":
        """As the backup's manifest says."""
        place = [table.name for table in manifest.tables].index("videos")
        rows = next(each.rows for each in manifest.objects if each.table == place)
        return cls(rows or 0, next(int(each.last_value) for each in manifest.sequences if each.name == "videos_id_seq"))


@dataclass
class Show:
    """The terminal, and what was measured."""

    console: Console
    rows: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(f"  [green]✓[/green] {text}", highlight=False)

    @contextmanager
    def step(self, title: str) -> Generator[Callable[[str], None]]:
        """A step with its time; the block says what it came to."""
        self.console.print(f"\n[bold]{title}[/bold]")
        began, outcome = time.monotonic(), [""]

        def came_to(text: str) -> None:
            outcome[0] = text
            self.say(text)

        yield came_to
        self.rows.append((title, duration(time.monotonic() - began), outcome[0]))

    def summary(self, ui: str) -> None:
        """The table at the end."""
        table = Table(title="What was measured", title_justify="left")
        for column in ("step", "took", "what"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        self.console.print("\n", table, f"\nPrefect's UI: {ui}", highlight=False)


def main(*, stay: bool | None) -> int:
    """Show all of it; 0 when every step came to what it must. Stays up afterwards in a terminal, or as asked."""
    show = Show(Console())
    with brought_up(show) as stage:
        with temporary_settings({PREFECT_API_URL: stage.environ["PREFECT_API_URL"]}):
            main_job(show, stage, _show_releases)
        show.summary(stage.ui)
        if stay if stay is not None else sys.stdout.isatty():
            _until_interrupted(show)
    return 0


@contextmanager
def brought_up(show: Show) -> Generator[LocalStage]:
    """The local stage, up; it is taken down at the end, unless somebody had it up before."""
    theirs = is_up()
    try:
        with show.step("Start the local stage, of real parts") as came_to:
            stage = up(say=show.say)
            came_to("the stage is up")
        yield stage
    finally:
        if theirs:
            show.console.print("the local stage was up before, and stays up: python -m deployments down ends it")
        else:
            down(say=show.console.print)


def main_job(show: Show, stage: LocalStage, between: Callable[[Show, LocalStage], None]) -> None:
    """Back up and prove; then, after what happens `between`, lose rows and bring them back. NotDone where it fails."""
    service = ServiceDatabase(stage.folder / "service")
    database = service.address
    _tidy_after_earlier_demos(show, service)
    with show.step("Back the service's database up, while it is used") as came_to:
        _run(show, stage, "backup/local", {"kind": "daily"})
        backup = _newest_backup()
        sizes = f"{size(backup.plain_bytes)} stored as {size(backup.stored_bytes)}"
        came_to(f"{backup.id}: {count(backup.rows, 'row')}, {sizes}")
    with show.step("Prove it: restore into a scratch server and compare every row") as came_to:
        proof = _await_proof(show, backup)
        if proof.verdict != "proven":
            raise NotDone(f"the proof of {backup.id} says {proof.verdict}")
        came_to(f"proven in {duration(sum(proof.seconds.values()))}: every row and the schema are equal")
    between(show, stage)
    with show.step("Lose rows, as it happens at night") as came_to:
        lost = lose_rows(database)
        came_to(f"{count(lost, 'video')} deleted from the live database")
    with show.step("Restore beside the live one, compare, and swap it in once a person approves") as came_to:
        answer = {"database": database.database, "approved_by": "the demo, as a person would in the UI"}
        run = _run(show, stage, "restore/local", {"which": backup.id, "swap": database.database}, answer=answer)
        came_to(str(run.name))
    with show.step("Look for the lost rows") as came_to:
        came_to(find_rows(database, Videos.of(_manifest(backup)), _old_name(run)))
    with show.step("Refuse a tampered copy, in break glass without Prefect") as came_to:
        came_to(_refuse_tampered(stage, backup))


def _show_releases(show: Show, stage: LocalStage) -> None:
    releases = Releases(stage, partial(_run, show, stage))
    with show.step("Count what visitors get of the release that serves") as came_to:
        came_to(f"{count(releases.await_baseline(), 'request')}: what a new release is compared with")
    with show.step("Deploy a good release, behind a real load balancer") as came_to:
        came_to(tell(releases.bring_good()))
    with show.step("Count what they get of this one") as came_to:
        came_to(f"{count(releases.await_baseline(), 'request')}: what the next one is compared with")
    with show.step("Deploy one that fails 5 % of its requests") as came_to:
        came_to(tell(releases.bring_bad()))


def _run(
    show: Show, stage: LocalStage, name: str, parameters: Mapping[str, Any], *, answer: Mapping[str, Any] | None = None
) -> FlowRun:
    """Ask for the deployment's run as CI does, and watch it; NotDone with its sentence unless it completed."""
    asked = subprocess.run(
        [PREFECT, "deployment", "run", name, "--params", json.dumps(parameters)],
        env=dict(stage.environ) | {"COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    run = re.search(r"UUID: ([0-9a-f-]{36})", asked.stdout)
    if asked.returncode or not run:
        raise NotDone(f"{name} could not be asked for: {_last_line(asked.stderr or asked.stdout)}")
    return _watch(show, UUID(run[1]), name, answer)


def _watch(show: Show, run_id: UUID, name: str, answer: Mapping[str, Any] | None = None) -> FlowRun:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with get_client(sync_client=True) as client, Progress(*columns, console=show.console, transient=True) as bar:
        task = bar.add_task(f"{name}: waiting for the worker", total=100)
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            run = client.read_flow_run(run_id)
            if run.state and run.state.is_final():
                if not run.state.is_completed():
                    raise NotDone(f"{run.name}: {run.state.name}: {run.state.message}")
                return run
            if answer and run.state and run.state.is_paused() and (plan := plan_in_form(client, run)):
                resume_flow_run(run_id, run_input={**answer, "plan": plan})
                answer = None
            _show_progress(bar, task, client, run)
            time.sleep(LOOK_SECONDS)  # the server pushes no progress to a terminal: it is asked
    raise Unreachable(f"{name} did not end within {RUN_SECONDS:.0f} s")


def _show_progress(bar: Progress, task: TaskID, client: SyncPrefectClient, run: FlowRun) -> None:
    shown = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), type=ArtifactFilterType(any_=["progress"])
        )
    )
    state = str(run.state.name).lower() if run.state else "unknown"
    percent = float(str(shown[-1].data)) if shown else 0.0
    bar.update(task, description=f"{run.name}: {state}", completed=percent)


def _newest_backup() -> Backup:
    backups = _world().ledger.backups()
    if not backups or backups[-1].state != "complete":
        raise NotDone("the backup's run completed, but the ledger does not know a complete backup")
    return backups[-1]


def _await_proof(show: Show, backup: Backup) -> Proof:
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(name=FlowRunFilterName(any_=[f"prove {backup.id}"]))
        runs = client.read_flow_runs(flow_run_filter=wanted)
    if not runs:
        raise NotDone(f"nobody asked for the proof of {backup.id}")
    _watch(show, runs[0].id, "prove/local")
    proofs = _world().ledger.proofs(backup.id)
    if not proofs:
        raise NotDone(f"the proof of {backup.id} ran, but left no paper")
    return proofs[-1]


def _manifest(backup: Backup) -> Manifest:
    world = _world()
    return read_one.fn(world.reading, world.keys, world.stage, backup.id).believed


def _world() -> World:
    return World(Stage.named("local"), running_stage().environ)


def _tidy_after_earlier_demos(show: Show, service: ServiceDatabase) -> None:
    """Drop the databases that they kept, and make the rows anew that one lost and never brought back."""
    with service.address.at("postgres").connect() as connection:
        left = (
            "select datname from pg_database where datname like 'app\\_before\\_%' or datname like 'app\\_restore\\_%'"
        )
        for (name,) in connection.execute(left).fetchall():
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
            show.say(f"dropped {name}, which an earlier demo kept")
    with service.address.connect() as connection:
        if _videos(connection) >= FEW:
            return
        connection.execute("drop schema public cascade")
        connection.execute("create schema public authorization service")
    fill(service.service_address)
    show.say("an earlier demo was cut off after it had lost the rows: the sample data are made anew")


def lose_rows(database: Address) -> int:
    """As a careless migration does it; NotDone when there was nothing to lose."""
    with database.connect() as connection:
        lost = _videos(connection)
        connection.execute("truncate public.videos cascade")
    if not lost:
        raise NotDone("no row was lost: there is nothing to restore, so nothing was shown")
    return lost


def _old_name(run: FlowRun) -> str:
    """A restore's run ends with a sentence that names what the old database is kept as."""
    said = str(run.state.message) if run.state else ""
    named = re.search(r"is kept, closed, as (\w+)", said)
    if not named:
        raise NotDone(f"the restore's run says {said!r}, and not where the old database is kept")
    return named[1]


def find_rows(database: Address, wanted: Videos, old: str) -> str:
    """Exactly the backup's videos, or NotDone: visitors go on adding some, but with numbers after its last one."""
    with database.connect() as live:
        back = _videos(live, up_to=wanted.last)
    if back != wanted.rows:
        raise NotDone(f"{back} of the backup's {count(wanted.rows, 'video')} are back in the live database")
    return f"{count(back, 'video')} are back in the live database; the damaged one is kept, closed, as {old}"


def _videos(connection: "psycopg.Connection[Any]", up_to: int | None = None) -> int:
    asked = "select count(*) from public.videos where id <= coalesce(%s, id)"
    row = connection.execute(asked, [up_to]).fetchone()
    return int(row[0]) if row else 0


def _refuse_tampered(stage: LocalStage, backup: Backup) -> str:
    """Copy the backup to another bucket, flip one bit there, and try to restore the copy by the command line alone."""
    described = Stage.named("local")
    place = _world().store.place()
    if not isinstance(place, S3Place):
        raise NotDone("the local stage's store is an S3 bucket, and this one is not")
    copy = replace(place, bucket="tampered")
    _copy_with_a_flipped_bit(place, copy, home_of(described).of(backup.id))
    stages = stage.folder / "tampered-stages"
    shutil.rmtree(stages, ignore_errors=True)
    stages.mkdir()
    text = (ROOT / "deployments" / "stages" / "local.toml").read_text()
    (stages / "local.toml").write_text(text.replace('bucket = "backups"', 'bucket = "tampered"'))
    done = subprocess.run(
        [sys.executable, "-m", "deployments", "run", "restore", "--stage", "local", "--param", f"which={backup.id}"],
        env=dict(stage.environ) | {"SHIPKEEPER_STAGES": str(stages)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return refused_as_tampered(done)


def refused_as_tampered(done: "subprocess.CompletedProcess[str]") -> str:
    """What the refused restore said; NotDone when it was not refused, or for another reason."""
    sentence = _last_line(done.stderr)
    if done.returncode == 0 or "is not what was written" not in sentence:
        raise NotDone(f"the tampered copy was not refused for what it is: {sentence}")
    return f"refused: {sentence}"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "nothing was said"


def _copy_with_a_flipped_bit(place: S3Place, copy: S3Place, folder: str) -> None:
    _make_bucket(copy)
    source, target = place.open(), copy.open()
    entries = list(source.list(folder))
    victim = max((each for each in entries if "/data/" in each.key), key=lambda each: each.bytes)
    for each in entries:
        data = bytearray(source.get(each.key))
        if each is victim:
            data[len(data) // 2] ^= 1
        target.put(each.key, bytes(data))


def _make_bucket(place: S3Place) -> None:
    import boto3
    from botocore.exceptions import ClientError

    client: Any = boto3.client(  # pyright: ignore[reportUnknownMemberType]
        "s3", endpoint_url=place.endpoint, region_name=place.region,
        aws_access_key_id=place.access_key, aws_secret_access_key=place.secret_key,
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=place.bucket)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise


def _until_interrupted(show: Show) -> None:
    show.console.print("It stays up until Ctrl-C; look around in the UI.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        show.console.print()
