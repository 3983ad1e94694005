"""The stage named local: real parts on this machine, all below one folder, all on loopback, all as the user who asked.

    control/     Postgres of the control plane: Prefect's database and the ledger
    service/     Postgres primary of the sample service, and its streaming standby
    store/       the object store that holds the backups
    balancer/    HAProxy before the two slots, its configuration and state
    repository/  the sample service's git repository     releases/   its checkouts and running releases
    processes/   counter, visitors, Prefect server, worker: pids and logs
    keys/        age identities and signing keys (0600)      environment.json   what `apply` and break glass need (0600)
    env.sh       for a shell that is to use this stage's Prefect: `. .stage/env.sh`

`up` starts what does not run and reuses what does; `down` ends all of it and keeps the data.
"""

import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from psycopg import sql

from blocks.errors import Missing, Unreachable
from blocks.keys import new_keys
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.postgres.tools import server_tools
from blocks.stream import public_of
from blocks.web import ask
from deployments.local.balancer import Balancer
from deployments.local.database import ServiceDatabase
from deployments.local.objectstore import ObjectStore, free_ports
from deployments.local.repository import Repository
from deployments.local.running import Running
from deployments.local.service import fill_empty
from flows.stage import Stage
from flows.world import World

ROOT = Path(__file__).resolve().parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
BUCKET = "backups"
READY_SECONDS = 90
FIRST_RELEASE_SECONDS = 120
SETTLE_SECONDS = 120
VISITORS_A_SECOND = 25
Say = Callable[[str], None]


def state_folder() -> Path:
    """Where the local stage keeps its state: `.stage` in the checkout, so that two checkouts never meet."""
    return Path(os.environ.get("SHIPKEEPER_STATE") or ROOT / ".stage")


@dataclass(frozen=True)
class LocalStage:
    """A running local stage: where its parts answer, and the environment that its commands need."""

    folder: Path
    ports: Mapping[str, int]
    environ: Mapping[str, str]

    @property
    def ui(self) -> str:
        """Prefect's UI."""
        return f"http://127.0.0.1:{self.ports['prefect']}"

    @property
    def service(self) -> str:
        """The sample service, where its visitors reach it: at the load balancer."""
        return Balancer(self.folder / "balancer").url


def up(folder: Path | None = None, *, say: Say = print) -> LocalStage:
    """Start the local stage, or what of it does not run; returns when all of it answers."""
    _possible_here()
    folder = folder or state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ports = _ports(folder)
    environ = _start_data(folder, ports, say)
    stage = LocalStage(folder, ports, environ)
    _start_prefect(stage, say)
    _apply(stage, say)
    _start_worker(stage, say)
    _start_releases(stage, say)
    return stage


def down(folder: Path | None = None, *, say: Say = print) -> None:
    """End every process of the local stage; its data stays for the next `up`."""
    folder = folder or state_folder()
    if not folder.exists():
        say(f"nothing runs: there is no {folder}")
        return
    for name in ("visitors", "service", "worker", "prefect"):
        Running(folder / "processes", name).stop()
    _stop_releases(folder)
    ObjectStore(folder / "store").stop()
    ServiceDatabase(folder / "service").stop()
    if (folder / "control" / "cluster.json").exists():
        Cluster.of(folder / "control").stop()
    say("the local stage is down; its data is kept for the next start")


def is_up(folder: Path | None = None) -> bool:
    """Whether somebody has it up: its server or its worker runs."""
    processes = (folder or state_folder()) / "processes"
    return any(Running(processes, name).alive() for name in ("prefect", "worker"))


def running_stage(folder: Path | None = None) -> LocalStage:
    """The stage that `up` started; Missing when there is none."""
    folder = folder or state_folder()
    paper = folder / "environment.json"
    if not paper.exists():
        raise Missing("the local stage is not up: start it with python -m deployments up")
    return LocalStage(folder, _ports(folder), _base_environment() | json.loads(paper.read_text()))


def _possible_here() -> None:
    if sys.platform != "linux":
        raise Missing(
            f"the local stage needs Linux (x86-64 or arm64): its Postgres and object store have no wheel for"
            f" {sys.platform}; the pure tests run here: make test"
        )


def _ports(folder: Path) -> dict[str, int]:
    paper = folder / "ports.json"
    if not paper.exists():
        names = ("control", "primary", "standby", "store", "prefect")
        _private(paper, json.dumps(dict(zip(names, free_ports(len(names)), strict=True))))
    return json.loads(paper.read_text())


def _start_data(folder: Path, ports: Mapping[str, int], say: Say) -> dict[str, str]:
    control = _control(folder / "control", ports["control"])
    say("Postgres of the control plane answers")
    service = ServiceDatabase(folder / "service")
    service.start(primary_port=ports["primary"], standby_port=ports["standby"])
    say("the service's Postgres primary and its streaming standby answer")
    secrets_ = _secrets(folder)
    store = ObjectStore(folder / "store").start(
        secrets_["AWS_ACCESS_KEY_ID"], secrets_["AWS_SECRET_ACCESS_KEY"], bucket=BUCKET, port=ports["store"]
    )
    say("the object store answers")
    fill_empty(service.service_address)
    known = (
        secrets_
        | _platform(folder)
        | {
            "DATABASE_URL": service.url,
            "SERVICE_DATABASE_URL": service.service_address.url(),
            "DATABASE_URL_CA_FILE": str(service.ca),
            "LEDGER_URL": control.address("ledger").url(),
            "PREFECT_API_DATABASE_CONNECTION_URL": _asyncpg(control.address("prefect")),
            "AWS_ENDPOINT_URL": store.endpoint,
            "PREFECT_API_URL": f"http://127.0.0.1:{ports['prefect']}/api",
            "PREFECT_HOME": str(folder / "prefect"),
        }
    )
    _private(folder / "environment.json", json.dumps(known, indent=1))
    shell = "".join(f"export {name}={shlex.quote(known[name])}\n" for name in ("PREFECT_API_URL", "PREFECT_HOME"))
    _private(folder / "env.sh", shell)
    return _base_environment() | known


def _control(folder: Path, port: int) -> Cluster:
    if not (folder / "cluster.json").exists():
        Cluster.create(folder, server_tools(17), port=port)
    cluster = Cluster.of(folder)
    cluster.start()
    with cluster.address().connect() as connection:
        for name in ("prefect", "ledger"):
            _create_database(connection, name)
    return cluster


def _create_database(connection: "psycopg.Connection[Any]", name: str) -> None:
    if not connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _asyncpg(address: Address) -> str:
    """As Prefect's server wants it: SQLAlchemy's driver in the scheme, no libpq options; loopback, so no TLS."""
    return address.url().partition("?")[0].replace("postgresql:", "postgresql+asyncpg:")


def _secrets(folder: Path) -> dict[str, str]:
    """The keys of this stage, made at its first start: what a team does with `python -m deployments keys new`."""
    paper = folder / "keys" / "environment.json"
    if not paper.exists():
        made = new_keys()
        _private(folder / "keys" / "identity.txt", made.team_identity + "\n")
        _private(folder / "keys" / "escrow.txt", made.escrow_identity + "\n")
        known = {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(24),
            "BACKUP_RECIPIENTS": f"{made.team_recipient},{made.escrow_recipient}",
            "BACKUP_VERIFYING_KEYS": made.backup_verifying_key,
            "PROOF_VERIFYING_KEYS": made.proof_verifying_key,
            "BACKUP_SIGNING_KEY": made.backup_signing_key,
            "PROOF_SIGNING_KEY": made.proof_signing_key,
            "RESTORE_IDENTITY_FILE": str(folder / "keys" / "identity.txt"),
            "PREFECT_SERVER_ENCRYPTION_KEY": _fernet_key(),
        }
        _private(paper, json.dumps(known, indent=1))
    return with_parted_keys(json.loads(paper.read_text()))


def with_parted_keys(known: Mapping[str, str]) -> dict[str, str]:
    """The same, where an older `up` trusted one list for both roles: the proof's key gets a list of its own."""
    if "PROOF_VERIFYING_KEYS" in known:
        return dict(known)
    proof = public_of(known["PROOF_SIGNING_KEY"])
    backup = [key for key in known["BACKUP_VERIFYING_KEYS"].split(",") if key != proof]
    return {**known, "BACKUP_VERIFYING_KEYS": ",".join(backup), "PROOF_VERIFYING_KEYS": proof}


def _fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def _private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.rename(path)


def _base_environment() -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    here = str(Path(sys.executable).parent)  # a release's commands say `python`
    return inherited | {
        "PATH": f"{here}:{os.environ.get('PATH', os.defpath)}",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,blocks",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }


def _start_prefect(stage: LocalStage, say: Say) -> None:
    server = Running(stage.folder / "processes", "prefect")
    if not server.alive():
        server.start(
            [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(stage.ports["prefect"])], stage.environ
        )
    server.await_ready(lambda: ask(f"{stage.ui}/api/health", timeout_s=2).healthy, READY_SECONDS, "the Prefect server")
    say(f"the Prefect server answers at {stage.ui}")


def _apply(stage: LocalStage, say: Say) -> None:
    """As a deployer does it, in a process of its own: `python -m deployments apply --stage local`."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "deployments", "apply", "--stage", "local"],
        env=dict(stage.environ), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Missing(f"apply failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    say("deployments, blocks and the ledger are applied")


def _start_worker(stage: LocalStage, say: Say) -> None:
    worker = Running(stage.folder / "processes", "worker")
    if not worker.alive():
        worker.start([sys.executable, "-m", "deployments", "worker", "--stage", "local"], stage.environ)
    worker.await_ready(lambda: "started" in worker.log.read_text(errors="replace"), READY_SECONDS, "the worker")
    say("a worker takes runs of the stage's work pool")


def _platform(folder: Path) -> dict[str, str]:
    """Load balancer, counter and repository, and what the blocks of releases are made from."""
    balancer = Balancer(folder / "balancer").start()
    counter = folder / "counter.sqlite"
    counting = Running(folder / "processes", "counter")
    if not counting.alive():
        command = [sys.executable, "-m", "blocks.counting", "--port", str(balancer.log_port), "--file", str(counter)]
        counting.start(command, _base_environment())
    Repository(folder / "repository").make()
    return {
        "PROCESSES_FOLDER": str(folder / "releases"),
        "PROCESSES_REPOSITORY": str(folder / "repository"),
        "PROCESSES_PORTS": json.dumps(balancer.slots),
        "PROCESSES_START": shlex.join([sys.executable, "serve.py", "--port", "{port}"]),
        "HAPROXY_SOCKET": balancer.block.socket,
        "HAPROXY_URL": balancer.url,
        "COUNTER_FILE": str(counter),
    }


def _start_releases(stage: LocalStage, say: Say) -> None:
    """What ran before runs again; where nothing does the first release is deployed, and bakes while others go on."""
    world = World(Stage.named("local"), stage.environ)
    if world.platform.revive():
        say("the releases that ran before run again")
    _await_reconcile(world, stage)
    if not any(slot.alive for slot in world.platform.slots().values()):
        with temporary_settings({PREFECT_API_URL: stage.environ["PREFECT_API_URL"]}):
            asked: Any = run_deployment(
                "deploy/local", timeout=0, as_subflow=False, flow_run_name="deploy the first release"
            )
        say(f"the first release is being deployed: run {asked.name}")
    _await_service(stage)
    visitors = Running(stage.folder / "processes", "visitors")
    if not visitors.alive():
        command = ["-m", "deployments.local.visitors", "--url", stage.service, "--a-second", str(VISITORS_A_SECOND)]
        visitors.start([sys.executable, *command], stage.environ)
    say(f"the sample service answers at {stage.service}, with live traffic")


def _await_reconcile(world: World, stage: LocalStage) -> None:
    """A `down` may have cut a deploy off: it is undone, and takes its release with it, so that is waited for."""
    late = 3 * world.stage.ledger.lease
    dead = {each.id for each in world.ledger.open() if each.renewed_ago > late or each.state == "undoing"}
    deadline = time.monotonic() + SETTLE_SECONDS
    while dead & {each.id for each in world.ledger.open()}:
        if time.monotonic() > deadline:
            raise Unreachable(
                f"what `down` cut off is not settled after {SETTLE_SECONDS} s: see reconcile in {stage.ui}"
            )
        time.sleep(0.2)  # the ledger tells nobody what it settled


def _await_service(stage: LocalStage) -> None:
    deadline = time.monotonic() + FIRST_RELEASE_SECONDS
    while not ask(f"{stage.service}/health", timeout_s=2).healthy:
        if time.monotonic() > deadline:
            raise Unreachable(
                f"no release serves at {stage.service} after {FIRST_RELEASE_SECONDS} s: see its run in {stage.ui}"
            )
        time.sleep(0.2)  # a balancer announces nothing


def _stop_releases(folder: Path) -> None:
    paper = folder / "environment.json"
    known: dict[str, str] = json.loads(paper.read_text()) if paper.exists() else {}
    if "PROCESSES_FOLDER" in known:  # a stage of an earlier version ran its service in another way
        platform = World(Stage.named("local"), known).platform
        for slot in platform.slots():
            platform.pause(slot)
    Balancer(folder / "balancer").stop()
    Running(folder / "processes", "counter").stop()
