"""Fixtures of stores: a real S3 server for the whole session, and a place of its own for each test."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.storage.objects import DirectoryPlace, S3Place
from deployments.local.objectstore import Identity, ObjectStore

BUCKET = "backups"
READER = Identity("reader", "reader-canary-secret", (f"Read:{BUCKET}", f"List:{BUCKET}"))
WRITER = Identity("writer", "writer-canary-secret", (f"Write:{BUCKET}",))
# a table of about 25 MB that do not shrink: its upload has four parts
NOISE = """create table public.noise as select i as id, sha512(i::text::bytea) || sha512((i + 0.1)::text::bytea)
    || sha512((i + 0.2)::text::bytea) || sha512((i + 0.3)::text::bytea) as b from generate_series(1, 100000) i"""


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("weed"))
    store.start("test-key", "test-canary-secret", BUCKET, others=(READER, WRITER))
    yield store
    store.stop()


@pytest.fixture
def place(weed: ObjectStore) -> S3Place:
    return S3Place(
        bucket=BUCKET,
        prefix=f"tests/{uuid.uuid4().hex}",
        endpoint=weed.endpoint,
        region="us-east-1",
        access_key="test-key",
        secret_key="test-canary-secret",
        connect_timeout_s=2,
        read_timeout_s=20,
        attempts=3,
    )


@pytest.fixture
def folder_place(tmp_path: Path) -> DirectoryPlace:
    return DirectoryPlace(folder=str(tmp_path / "store"), prefix="backups")


def opened_by(place: S3Place, identity: Identity) -> S3Place:
    """The same place, opened with another key."""
    return replace(place, access_key=identity.access_key, secret_key=identity.secret_key)
