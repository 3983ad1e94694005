"""A whole world of real parts for a flow: a database, a ledger, a store, keys, in break glass or under an engine."""

from collections.abc import Generator
from pathlib import Path

import pytest

from blocks.keys import new_keys
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.storage.objects import S3Place
from deployments.local.objectstore import ObjectStore
from flows.deploy.flow import deploy
from flows.effect import stage_named, without_prefect
from flows.world import World
from tests.parts.environment import environment, identity_file
from tests.parts.postgres import drop_database, make_database
from tests.parts.rollout import Rollout, rollout
from tests.parts.scene import Scene, scene
from tests.parts.store import s3_place

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
    keys, stages = new_keys(), tmp_path / "stages"
    stages.mkdir()
    (stages / "test.toml").write_text(STAGE.format(database=database.database, prefix=place.prefix, exclude=""))
    variables = environment(database, ledger_database, keys, identity_file(tmp_path, keys), place)
    variables["SHIPKEEPER_STAGES"] = str(stages)
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


@pytest.fixture(scope="module")
def lab(stage: Scene, tmp_path_factory: pytest.TempPathFactory) -> Generator[Rollout]:
    """A scene for releases, with a first one that serves."""
    with rollout(stage, tmp_path_factory.mktemp("rollout")) as made:
        made.short_bakes()
        deploy("test")
        yield made


@pytest.fixture
def short_bakes(lab: Rollout) -> None:
    """The stage's TOML as it was, with bakes of a second."""
    lab.short_bakes()
