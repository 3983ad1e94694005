"""Fixtures of stores: a real S3 server for the whole session, and a place of its own for each test."""

import json
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


def policy(*allowed: tuple[str, str]) -> str:
    """An IAM policy that allows each `Put Get` on each `*` or `*/manifest.json*`; no path: on the bucket itself."""
    statements = [
        {
            "Effect": "Allow",
            "Action": [f"s3:{action}" for action in actions.split()],
            "Resource": f"arn:aws:s3:::{BUCKET}{path}",
        }
        for actions, path in allowed
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


# what docs/runbooks/keys.md asks for, and nothing more
BACKER = Identity(
    "backer",
    "backer-canary-secret",
    policy=policy(
        ("PutObject AbortMultipartUpload", "/*"),
        ("ListBucket ListBucketMultipartUploads", ""),
        ("GetObject", "/*/manifest.json*"),
    ),
)
PROVER = Identity(
    "prover",
    "prover-canary-secret",
    policy=policy(("GetObject", "/*"), ("ListBucket", ""), ("PutObject", "/*/proof-*")),
)
PRUNER = Identity(
    "pruner",
    "pruner-canary-secret",
    policy=policy(
        ("GetObject", "/*/manifest.json*"),
        ("GetObject", "/*/proof-*"),
        ("ListBucket ListBucketMultipartUploads", ""),
        ("DeleteObject AbortMultipartUpload", "/*"),
    ),
)
# a table of about 25 MB that do not shrink: its upload has four parts
NOISE = """create table public.noise as select i as id, sha512(i::text::bytea) || sha512((i + 0.1)::text::bytea)
    || sha512((i + 0.2)::text::bytea) || sha512((i + 0.3)::text::bytea) as b from generate_series(1, 100000) i"""


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("weed"))
    store.start("test-key", "test-canary-secret", BUCKET, others=(READER, WRITER, BACKER, PROVER, PRUNER))
    yield store
    store.stop()


@pytest.fixture
def place(weed: ObjectStore) -> S3Place:
    return s3_place(weed)


def s3_place(weed: ObjectStore) -> S3Place:
    """A place of its own in the session's store, with all rights."""
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
