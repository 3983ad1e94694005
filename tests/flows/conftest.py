"""A whole world of real parts for a flow: a database, a ledger, a store, keys, in break glass or under an engine."""

from collections.abc import Generator
from pathlib import Path

import pytest

from blocks.keys import new_keys
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.storage.objects import S3Place
from deployments.local.objectstore import ObjectStore
from flows.effect import stage_named, without_prefect
from flows.world import World
from tests.parts.postgres import drop_database, make_database
from tests.parts.scene import Scene, s3_place, scene, url_of

STAGE = """
faults = true
[service]
name = "curator"
[database]
name = "{database}"
exclude_data = [{exclude}]
lock_wait = "5s"
[objectives]
rpo = "1h"
rto = "4h"
[ledger]
lease = "3s"
[store]
bucket = "backups"
prefix = "{prefix}"
region = "us-east-1"
"""


@pytest.fixture
def ledger_database(postgres17: Cluster) -> Generator[Address]:
    """An empty database for the ledger."""
    address = make_database(postgres17)
    yield address
    drop_database(address)


@pytest.fixture
def environ(
    database: Address, ledger_database: Address, place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """What break glass reads, set; the stage named `test` describes the same parts."""
    keys, identity, stages = new_keys(), tmp_path / "identity.txt", tmp_path / "stages"
    identity.touch(mode=0o600)
    identity.write_text(keys.team_identity + "\n")
    stages.mkdir()
    (stages / "test.toml").write_text(STAGE.format(database=database.database, prefix=place.prefix, exclude=""))
    variables = {
        "SHIPKEEPER_STAGES": str(stages),
        "DATABASE_URL": url_of(database),
        "LEDGER_URL": url_of(ledger_database),
        "AWS_ACCESS_KEY_ID": str(place.access_key),
        "AWS_SECRET_ACCESS_KEY": str(place.secret_key),
        "AWS_ENDPOINT_URL": str(place.endpoint),
        "BACKUP_RECIPIENTS": f"{keys.team_recipient},{keys.escrow_recipient}",
        "BACKUP_VERIFYING_KEYS": keys.backup_verifying_key,
        "PROOF_VERIFYING_KEYS": keys.proof_verifying_key,
        "BACKUP_SIGNING_KEY": keys.backup_signing_key,
        "PROOF_SIGNING_KEY": keys.proof_signing_key,
        "RESTORE_IDENTITY_FILE": str(identity),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def world(environ: dict[str, str]) -> World:
    """The world of the stage `test`, its ledger migrated."""
    made = World(stage_named("test"), environ)
    made.ledger.migrate()
    return made


@pytest.fixture
def glass() -> Generator[None]:
    """Break glass: flows are plain functions."""
    with without_prefect():
        yield


@pytest.fixture(scope="module")
def stage(postgres17: Cluster, weed: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    """One scene for a whole module, in break glass: a dump costs seconds, so its tests share it."""
    with scene(postgres17, s3_place(weed), tmp_path_factory.mktemp("stage")) as made, without_prefect():
        yield made
