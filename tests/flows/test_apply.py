"""apply against a real Prefect server: once it is equal, twice it changes nothing, and people's pauses are theirs."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.errors import BlockError, Missing, Refused, Unreachable
from blocks.keys import BackupKeys, new_keys
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from deployments.automations import told_of
from deployments.declared import Declared, declared
from deployments.server import apply, reached
from flows.effect import NotDone, ask_for
from flows.stage import Stage
from tests.parts.environment import deployer
from tests.parts.postgres import drop_database, make_database

STAGE = """
[service]
name = "sample"
[database]
name = "app"
[objectives]
rpo = "1h"
rto = "4h"
[store]
kind = "directory"
folder = "{folder}"
"""
ONE = {
    "name": "lab",
    "entrypoint": "tests.shape.sample.backup",
    "description": "Backs up.",
    "tags": ["backup", "lab"],
    "parameters": {"stage": "lab"},
    "enforce_parameter_schema": True,
    "work_pool": {"name": "lab", "work_queue_name": "default"},
    "schedules": [
        {"slug": "frequent", "cron": "15,45 * * * *", "timezone": "UTC", "parameters": {"kind": "weekly"}},
        {"slug": "daily", "cron": "0 2 * * *", "timezone": "UTC"},
    ],
}
OTHER = {
    "name": "lab",
    "entrypoint": "tests.shape.sample.count",
    "description": "Counts.",
    "tags": ["count", "lab"],
    "parameters": {"stage": "lab"},
    "enforce_parameter_schema": True,
    "work_pool": {"name": "lab", "work_queue_name": "restore"},
}
FILE = yaml.safe_dump({"pull": [], "deployments": [ONE, OTHER]})
KEYS = new_keys()  # the same for all tests: most blocks then stay as they are from one to the next
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "WARNING"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A Prefect server of this module's own, with its state in a temporary folder."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | QUIET | {"PREFECT_HOME": str(home)}, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/api"
            await_answer(f"{url}/health", server, home / "log")
            yield url
        finally:
            server.terminate()
            server.wait(30)


def await_answer(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def server(api: str) -> Generator[str]:
    """The server, with no deployment, automation and pool on it; blocks stay."""
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        for pool in client.read_work_pools():
            client.delete_work_pool(pool.name)
        yield api


@pytest.fixture
def without_blocks(server: str) -> str:
    with get_client(sync_client=True) as client:
        for kind in client.read_block_types():
            for document in client.read_block_documents_by_type(kind.slug):
                client.delete_block_document(document.id)
    return server


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage.parse(STAGE.format(folder=tmp_path / "store"), "lab")


@pytest.fixture
def environ(database: Address, ledger_database: Address) -> dict[str, str]:
    return deployer(database, ledger_database, KEYS, Path("/nowhere/identity"))


def wanted(file: str = FILE) -> list[Declared]:
    return declared("lab", file)


def lines(
    stage: Stage, environ: dict[str, str], found: list[Declared] | None = None, *, prune: bool = False
) -> list[str]:
    said: list[str] = []
    apply(stage, wanted() if found is None else found, environ, prune=prune, say=said.append)
    return said


def verbs(said: list[str]) -> set[str]:
    return {line.split()[0] for line in said[:-1]}


def changed(said: list[str]) -> list[str]:
    return [line for line in said if line.split()[0] in {"created", "updated", "removed", "migrated"}]


@pytest.mark.usefixtures("without_blocks")
def test_the_first_apply_makes_everything_and_the_second_changes_nothing(stage: Stage, environ: dict[str, str]) -> None:
    first = lines(stage, environ)
    assert {"created   work pool lab", "created   queue lab/restore", "created   deployment backup/lab"} <= set(first)
    assert "created   block backup-keys/lab-proof" in first
    second = lines(stage, environ)
    assert verbs(second) == {"unchanged", "kept"}, changed(second)
    assert second[-1].endswith(": nothing changed")
    assert len(second) == len(first)


@pytest.mark.usefixtures("server")
def test_only_what_differs_is_deployed(stage: Stage, environ: dict[str, str]) -> None:
    lines(stage, environ)
    one, other = wanted()
    said = lines(stage, environ, [replace(one, description="Backs up at night.", schedules=one.schedules[1:]), other])
    assert changed(said) == ["updated   deployment backup/lab: description, schedules"]
    with get_client(sync_client=True) as client:
        assert [each.slug for each in client.read_deployment_by_name("backup/lab").schedules] == ["daily"]


@pytest.mark.usefixtures("server")
def test_a_run_that_is_asked_for_is_named_and_the_same_key_asks_for_no_other(
    stage: Stage, environ: dict[str, str]
) -> None:
    lines(stage, environ)
    first, again = (ask_for("count", "lab", {}, key="once") for _ in range(2))
    assert first.run == "count lab"
    assert (again, str(first)) == (first, "count asked for: run count lab")
    with get_client(sync_client=True) as client:
        assert [each.name for each in client.read_flow_runs()].count("count lab") == 1
    assert not ask_for("nobody", "lab", {}, key="nobody").run


@pytest.mark.usefixtures("server")
def test_what_a_person_paused_stays_paused(stage: Stage, environ: dict[str, str]) -> None:
    lines(stage, environ)
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("backup/lab")
        client.pause_deployment(found.id)
        client.update_deployment_schedule(
            found.id, next(each.id for each in found.schedules if each.slug == "daily"), active=False
        )
    assert not changed(said := lines(stage, environ))
    assert "unchanged deployment backup/lab (paused; schedule daily paused by a person: stays so)" in said
    lines(stage, environ, [replace(wanted()[0], description="Otherwise."), wanted()[1]])
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("backup/lab")
    assert (found.paused, found.description) == (True, "Otherwise.")
    assert {each.slug: each.active for each in found.schedules} == {"frequent": True, "daily": False}


@pytest.mark.usefixtures("server")
def test_what_the_repository_no_longer_names_is_listed_and_removed_only_with_prune(
    stage: Stage, environ: dict[str, str]
) -> None:
    lines(stage, environ)
    said = lines(stage, environ, wanted()[:1])
    assert "orphan    deployment count/lab: the repository no longer names it; --prune removes it" in said
    assert "orphan    queue lab/restore: the repository no longer names it; --prune removes it" in said
    assert said[-1].endswith("nothing changed, 2 orphaned")
    removed = ["removed   deployment count/lab", "removed   queue lab/restore"]
    assert changed(lines(stage, environ, wanted()[:1], prune=True)) == removed
    assert not changed(lines(stage, environ, wanted()[:1]))


@pytest.mark.usefixtures("server")
def test_another_stage_is_left_alone(stage: Stage, environ: dict[str, str], postgres17: Cluster) -> None:
    lines(stage, environ)
    yard = stage.model_copy(update={"name": "yard"})
    found = declared("yard", FILE.replace("lab", "yard"))
    with pytest.raises(Refused, match="is that of stage lab: give yard a database of its own"):
        lines(yard, environ, found)
    ledger = make_database(postgres17)
    own = environ | {"LEDGER_URL": ledger.url()}
    assert "created   deployment backup/yard" in lines(yard, own, found)
    assert not [line for line in lines(yard, own, found[:1], prune=True) if "/lab" in line]
    assert not changed(lines(stage, environ))
    drop_database(ledger)


def test_prefects_own_deploy_yields_the_same(
    server: str, stage: Stage, environ: dict[str, str], tmp_path: Path
) -> None:
    lines(stage, environ)
    with get_client(sync_client=True) as client:
        for each in client.read_deployments():
            client.delete_deployment(each.id)
    (tmp_path / "prefect.yaml").write_text(FILE)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "-n", "lab"]
    environment = (
        os.environ | QUIET | {"PREFECT_API_URL": server, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    )
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not changed(lines(stage, environ))


@pytest.mark.usefixtures("server")
def test_a_changed_secret_is_saved_and_an_unset_one_is_kept(stage: Stage, environ: dict[str, str]) -> None:
    lines(stage, environ)
    environ["BACKUP_SIGNING_KEY"] = new_keys().backup_signing_key
    said = lines(stage, environ)
    assert changed(said) == ["updated   block backup-keys/lab"]
    assert environ["BACKUP_SIGNING_KEY"] not in "\n".join(said)
    loaded = BackupKeys.load("lab")
    assert isinstance(loaded, BackupKeys)
    assert loaded.signing_key is not None
    assert loaded.signing_key.get_secret_value() == environ.pop("BACKUP_SIGNING_KEY")
    said = lines(stage, environ)
    assert "kept      block backup-keys/lab as it is on the server: BACKUP_SIGNING_KEY not set here" in said
    assert not changed(said)


@pytest.mark.usefixtures("without_blocks")
def test_a_store_that_holds_its_credentials_inside_is_compared_with_them(stage: Stage, environ: dict[str, str]) -> None:
    bucket = Stage.parse(STAGE.replace('kind = "directory"', 'bucket = "backups"').format(folder=""), "lab")
    environ |= {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "the-one-before",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    assert "created   block backup-store/lab" in lines(bucket, environ)
    assert not changed(lines(bucket, environ))
    assert changed(lines(bucket, environ | {"AWS_SECRET_ACCESS_KEY": "the-one-after"})) == [
        "updated   block backup-store/lab"
    ]


@pytest.mark.usefixtures("without_blocks")
def test_everything_missing_is_told_at_once_before_anything_is_made(stage: Stage, environ: dict[str, str]) -> None:
    del environ["DATABASE_URL"], environ["PROOF_SIGNING_KEY"], environ["PROOF_VERIFYING_KEYS"]
    both = "PROOF_VERIFYING_KEYS, PROOF_SIGNING_KEY"
    with pytest.raises(Missing, match=f"postgres-server/lab needs DATABASE_URL; .*backup-keys/lab-proof needs {both}"):
        lines(stage, environ)
    with get_client(sync_client=True) as client:
        assert client.read_work_pools() == []


def test_a_silent_server_and_no_server_are_told_in_one_sentence() -> None:
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(Unreachable, match="no Prefect server answers at"),
        reached(),
    ):
        pass
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(Missing, match="PREFECT_API_URL is not set"),
        reached(),
    ):
        pass


@pytest.mark.usefixtures("server")
def test_a_key_that_lies_beside_the_blocks_is_warned_of(
    stage: Stage, environ: dict[str, str], ledger_database: Address
) -> None:
    del environ["PREFECT_SERVER_ENCRYPTION_KEY"]
    (warned,) = [line for line in lines(stage, environ) if line.startswith("warning   whether the Prefect server encr")]
    assert "set PREFECT_API_DATABASE_CONNECTION_URL here to have it looked at" in warned
    with ledger_database.connect() as connection:
        connection.execute("create table public.configuration (key text)")
    environ["PREFECT_API_DATABASE_CONNECTION_URL"] = environ["LEDGER_URL"].replace("postgresql:", "postgresql+asyncpg:")
    assert not [line for line in lines(stage, environ) if line.startswith("warning")]
    with ledger_database.connect() as connection:
        connection.execute("insert into public.configuration values ('ENCRYPTION_KEY')")
    assert any(line.startswith("warning   Prefect's database holds the key") for line in lines(stage, environ))


class Heard(BaseHTTPRequestHandler):
    """Answers as Slack does and keeps what it was sent."""

    sent: list[str]

    def do_POST(self) -> None:
        self.sent.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def slack() -> Iterator[tuple[str, list[str]]]:
    sent: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Here", (Heard,), {"sent": sent}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", sent
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("without_blocks")
def test_people_are_told_of_a_failed_backup_where_a_webhook_is_configured(
    stage: Stage, environ: dict[str, str], slack: tuple[str, list[str]]
) -> None:
    assert any("no Slack webhook is configured" in line for line in lines(stage, environ))
    environ["SLACK_WEBHOOK_URL"] = slack[0]
    made = changed(lines(stage, environ))
    assert made == [
        "created   block slack-incoming-webhook/lab",
        "created   automation lab: tell of failed and disproven backups",
    ]
    assert not changed(lines(stage, environ))
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(client.read_deployment_by_name("backup/lab").id)
        client.set_flow_run_state(run.id, State(type=StateType.RUNNING), force=True)
        client.set_flow_run_state(run.id, State(type=StateType.FAILED, message="the store is full"), force=True)
    deadline = time.monotonic() + 30
    while not slack[1] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "the store is full" in "".join(slack[1])


@pytest.mark.usefixtures("without_blocks")
def test_an_optional_block_whose_variables_are_unset_again_is_listed_and_removed_only_with_prune(
    stage: Stage, environ: dict[str, str], slack: tuple[str, list[str]]
) -> None:
    bucket = Stage.parse(STAGE.replace('kind = "directory"', 'bucket = "backups"').format(folder=""), "lab")
    environ |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "a-secret"}
    reading = {"READING_AWS_ACCESS_KEY_ID": "reader", "READING_AWS_SECRET_ACCESS_KEY": "the-readers"}
    webhook = {"SLACK_WEBHOOK_URL": slack[0]}
    lines(bucket, environ | reading | webhook)

    with pytest.raises(NotDone, match=r"store/lab-reading: aws_secret_access_key of the AWS .*fewer than 6"):
        lines(bucket, environ | reading | {"READING_AWS_SECRET_ACCESS_KEY": "abc"})
    half = lines(bucket, environ | webhook | {"READING_AWS_ACCESS_KEY_ID": "reader"})
    assert not [line for line in half if line.startswith("orphan")]
    said, unset = lines(bucket, environ), "not set here any more; --prune removes it"
    assert [line for line in said if line.startswith("orphan")] == [
        f"orphan    block backup-store/lab-reading: {', '.join(reading)} {unset}",
        f"orphan    block slack-incoming-webhook/lab: SLACK_WEBHOOK_URL {unset}",
    ]
    assert said[-1].endswith("nothing changed, 2 orphaned")
    assert changed(lines(bucket, environ, prune=True)) == [
        "removed   block backup-store/lab-reading",
        "removed   block slack-incoming-webhook/lab",
        "removed   automation lab: tell of failed and disproven backups",
    ]
    assert verbs(lines(bucket, environ, prune=True)) == {"unchanged", "kept"}


def test_people_are_told_of_failed_backups_proofs_and_verifications_of_their_stage() -> None:
    flows = ("backup", "prove", "verify", "status")
    names = [f"{flow}/{stage}" for flow in flows for stage in ("lab", "other")]
    deployed = {name: DeploymentResponse(id=uuid4(), name=name, flow_id=uuid4(), labels={}) for name in names}
    told = sorted(f"prefect.deployment.{deployed[f'{flow}/lab'].id}" for flow in ("backup", "prove", "verify"))
    assert told_of("lab", deployed) == told


@pytest.mark.usefixtures("server")
def test_an_automation_that_a_person_switched_off_stays_off(
    stage: Stage, environ: dict[str, str], slack: tuple[str, list[str]]
) -> None:
    environ["SLACK_WEBHOOK_URL"] = slack[0]
    lines(stage, environ)
    with get_client(sync_client=True) as client:
        client.pause_automation(client.read_automations()[0].id)
    assert not changed(lines(stage, environ))
    with get_client(sync_client=True) as client:
        assert [each.enabled for each in client.read_automations()] == [False]


@pytest.mark.usefixtures("server")
def test_a_ledger_in_the_services_own_database_is_refused(stage: Stage, environ: dict[str, str]) -> None:
    with pytest.raises(Refused, match="LEDGER_URL names the service's own database"):
        lines(stage, environ | {"LEDGER_URL": environ["DATABASE_URL"]})


@pytest.mark.usefixtures("server")
def test_a_newer_ledger_is_refused_before_anything_is_made(
    stage: Stage, environ: dict[str, str], ledger_database: Address
) -> None:
    lines(stage, environ)
    with ledger_database.connect() as connection:
        connection.execute("insert into ledger.migration (version, name) values (9999, 'later')")
    with pytest.raises((Refused, BlockError), match="run the newer one"):
        lines(stage, environ, [replace(one, description="Otherwise.") for one in wanted()])
    with get_client(sync_client=True) as client:
        assert client.read_deployment_by_name("backup/lab").description == "Backs up."
