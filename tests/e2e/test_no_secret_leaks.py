"""Flows that succeed and that fail, under a real Prefect server: no secret is anywhere that people or tools look.

Scanned: every table of Prefect's database, logs, the terminal, command lines of every process of the run, temporary
files, and all that lies in the store. Searched for in the forms that texts carry secrets in.
"""

import base64
import json
import sqlite3
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from os import getpid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import prefect.settings
import pytest
from prefect.client.schemas.objects import State
from prefect.logging.configuration import setup_logging
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from psycopg import sql

from blocks.postgres.cluster import Cluster
from deployments.local.objectstore import ObjectStore
from flows.backup.flow import backup
from flows.bake.flow import bake
from flows.catalogue.flow import catalogue
from flows.deploy.flow import deploy, history
from flows.effect import _guard_logs  # pyright: ignore[reportPrivateUsage] - handlers made anew want their filter
from flows.prove.flow import prove
from flows.prune.flow import prune
from flows.restore.flow import restore
from flows.rollback.flow import rollback
from flows.status.flow import status
from flows.verify.flow import verify
from flows.world import wanted_blocks
from tests.parts.environment import url_of
from tests.parts.postgres import PASSWORD
from tests.parts.prefect_server import prefect_server
from tests.parts.processes import children
from tests.parts.rollout import Rollout, started
from tests.parts.scene import Scene, scene
from tests.parts.store import s3_place

SETTING = "setting-canary-9f3kq"
WRONG_PASSWORD = "wrong-canary-password-7x"
WRONG_SECRET = "wrong-canary-secret-5y"
VARIABLE = "service-canary-variable-3w"
SHOWS = """python -c 'import os; raise SystemExit(\\"it was \\" + os.environ[\\"API_KEY\\"])'"""  # in TOML


def forms(secret: str) -> set[str]:
    """The same secret as texts carry it."""
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        secret.replace("'", "''"),
        base64.b64encode(secret.encode()).decode(),
        secret.encode().hex(),
    }


@dataclass
class Watch:
    """Samples command lines and temporary files of this process and all below it, as long as it is on."""

    temporary: Path
    seen: set[str] = field(default_factory=set[str])
    known: set[tuple[int, int, int]] = field(default_factory=set[tuple[int, int, int]])
    over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self.over.wait(0.02):
            for pid in [getpid(), *children(getpid())]:
                self._read(Path(f"/proc/{pid}/cmdline"))
            with suppress(OSError):  # a folder that went meanwhile ends this look, not the next one
                for path in self.temporary.rglob("*"):
                    if path.is_file() and "prefect-test.db" not in path.name and self._new(path):
                        self._read(path)

    def _new(self, path: Path) -> bool:
        """Whether it was not read yet as it is now."""
        try:
            found = path.stat()
        except OSError:
            return False
        now = (found.st_ino, found.st_ctime_ns, found.st_size)
        new = now not in self.known
        self.known.add(now)
        return new

    def _read(self, path: Path) -> None:
        with suppress(OSError):
            self.seen.add(path.read_bytes()[: 1 << 20].decode(errors="replace").replace("\0", " "))


@pytest.fixture(scope="module")
def stage(postgres17: Cluster, weed: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    with scene(postgres17, s3_place(weed), tmp_path_factory.mktemp("leaks")) as made:
        with made.database.connect() as connection:
            connection.execute(
                sql.SQL("alter database {} set app.secret = {}").format(
                    sql.Identifier(made.database.database), sql.Literal(SETTING)
                )
            )
        yield made


@pytest.fixture(scope="module")
def releases(stage: Scene, tmp_path_factory: pytest.TempPathFactory) -> Generator[Rollout]:
    """Its platform; the service has a secret of its own in its environment."""
    with started(stage, tmp_path_factory.mktemp("releases"), SERVICE_API_KEY=VARIABLE) as made:
        made.toml('minimum = "3s"\nmaximum = "5s"', 'minimum = "1s"\nmaximum = "1s"')
        made.also('required = ["DATABASE_URL"]', 'required = ["DATABASE_URL", "API_KEY"]')
        yield made


@contextmanager
def logging_of_flows() -> Generator[None]:
    """Loggers as a worker's run has them, its logs sent to the server."""
    extra: dict[Any, Any] = {PREFECT_LOGGING_EXTRA_LOGGERS: "flows,blocks", PREFECT_LOGGING_TO_API_ENABLED: True}
    with temporary_settings(updates=extra):
        setup_logging(incremental=False)
        _guard_logs()
        yield


def save_blocks(releases: Rollout, **changed: str) -> None:
    for wanted in wanted_blocks(releases.world.stage, {**releases.environ, **changed}):
        if not wanted.missing:
            wanted.build().save(wanted.name, overwrite=True)


def ended(state: State[Any]) -> tuple[str, str]:
    return str(state.name), str(state.message)


def release_all(releases: Rollout) -> list[tuple[str, str]]:
    """Releases that stay, are refused and are given back; two commands of theirs end with the service's secret."""
    said = [ended(deploy("test", return_state=True))]
    releases.repository.release("feat: one more", {})
    said += [ended(flow("test", return_state=True)) for flow in (deploy, bake, history)]
    releases.repository.release("feat: refused", {})
    releases.also('smoke = "python smoke.py"', f'smoke = "{SHOWS}"')
    said += [ended(deploy("test", return_state=True))]
    releases.also('listing = "python migrate.py list"', f'listing = "{SHOWS}"')
    return [*said, ended(deploy("test", return_state=True)), ended(rollback("test", return_state=True))]


def run_all(stage: Scene, releases: Rollout) -> list[tuple[str, str]]:
    """Flows that succeed, then flows that fail, each in its own way."""
    said = [ended(backup("test", "daily", return_state=True)), ended(prove("test", return_state=True))]
    said += [ended(flow("test", return_state=True)) for flow in (catalogue, verify, prune, status)]
    said += release_all(releases)
    live = stage.database.database
    said += [
        ended(restore("test", into=f"{live}_back", return_state=True)),
        ended(restore("test", which="20200101T000000Z-daily-aaaaaa", return_state=True)),
        ended(restore("test", swap="nowhere", return_state=True)),
        ended(restore("test", into=live, return_state=True)),
    ]
    wrong = url_of(replace(stage.database, password=WRONG_PASSWORD))
    save_blocks(releases, DATABASE_URL=wrong)
    said += [ended(backup("test", return_state=True)), ended(restore("test", return_state=True))]
    save_blocks(releases, AWS_SECRET_ACCESS_KEY=WRONG_SECRET)
    said += [ended(backup("test", return_state=True)), ended(catalogue("test", return_state=True))]
    save_blocks(releases, LEDGER_URL=wrong)
    said += [ended(prune("test", return_state=True)), ended(status("test", return_state=True))]
    save_blocks(releases, RESTORE_IDENTITY_FILE="/nowhere/identity")
    return [*said, ended(prove("test", which=stage.bucket.backups[0].id, return_state=True))]


def dumped(database: Path) -> dict[str, str]:
    """Every table of Prefect's database, as text."""
    with sqlite3.connect(database) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {
            name: "\n".join(
                " ".join(value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in row)
                for row in connection.execute(f'select * from "{name}"')  # noqa: S608 - its own table names
            )
            for name in names
        }


def stored(stage: Scene) -> str:
    """Everything in the store, sealed or not."""
    objects = stage.objects
    return "\n".join(f"{entry.key} {objects.get(entry.key).decode(errors='replace')}" for entry in objects.list())


def files_below(folder: Path) -> str:
    """All that lies there but what holds the service's variables by design, which only its owner reads."""
    return "\n".join(path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_no_secret_is_anywhere_and_every_failure_is_its_sentence(
    stage: Scene,
    releases: Rollout,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    tempfile.tempdir = None  # it is looked up again
    watch = Watch(temporary)
    watching = threading.Thread(target=watch.look)
    with prefect_server(), logging_of_flows():
        url = str(prefect.settings.PREFECT_SERVER_DATABASE_CONNECTION_URL.value())
        save_blocks(releases)
        watching.start()
        try:
            said = run_all(stage, releases)
            assert watching.is_alive()
        finally:
            watch.over.set()
            watching.join()
            tempfile.tempdir = None
    tables = dumped(Path(url.partition("///")[2]))  # after the harness: it drained the logs on their way
    out, err = capfd.readouterr()
    places = {
        **{f"Prefect's table {name}": text for name, text in tables.items()},
        "states": repr(said),
        "terminal": out + err,
        "command lines and temporary files": "\n".join(watch.seen),
        "store": stored(stage),
        "the platform's files": files_below(releases.folder),
    }

    secrets = {
        "database password": PASSWORD,
        "wrong database password": WRONG_PASSWORD,
        "signing key": stage.keys.backup_signing_key,
        "proof signing key": stage.keys.proof_signing_key,
        "age identity": stage.keys.team_identity,
        "S3 secret": str(stage.place.secret_key),
        "wrong S3 secret": WRONG_SECRET,
        "database setting": SETTING,
        "the service's variable": VARIABLE,
    }
    leaks = [
        f"{secret} in {place}"
        for secret, value in secrets.items()
        for place, text in places.items()
        if any(form in text for form in forms(value))
    ]
    assert not leaks
    known = {
        "Prefect's table flow_run": "daily of",
        "Prefect's table log": "daily backup of",
        "Prefect's table artifact": "is proven",
        "Prefect's table flow_run_state": "is proven",
        "Prefect's table events": "prefect.flow-run.Failed",
        "Prefect's table block_document": "gAAAA",
        "store": '"name":"app.secret"',
        "terminal": "is proven",
        "command lines and temporary files": "pg_dump",
        "the platform's files": "feat: one more",
    }
    blind = [place for place, text in known.items() if text not in places[place]]
    assert not blind, "the scan does not see what is there"

    good, bad = [text for name, text in said if name == "Completed"], [text for name, text in said if name == "Failed"]
    assert len(good) == 11
    wanted = (
        "reconcile has never run: start a worker",
        "gets no traffic: its smoke tests failed: it was [REDACTED]",
        "the listing of the migrations failed with exit code 1: it was [REDACTED]",
        "no backup 20200101T000000Z-daily-aaaaaa: 1 are known",
        "type the live database's name",
        "exists already on",
        "password",
        "password",
        "",
        "",
        "",
        "",
        "/nowhere/identity is not on this host",
    )
    assert len(bad) == len(wanted), bad
    for sentence, part in zip(bad, wanted, strict=True):
        assert part in sentence
        assert "\n" not in sentence
        assert "Traceback" not in sentence
    assert set(bad) <= _messages(url)


def _messages(url: str) -> set[str]:
    with sqlite3.connect(url.partition("///")[2]) as connection:
        return {str(text) for (text,) in connection.execute("select message from flow_run_state")}
