"""What lies in the bucket of a backup, and who may do what with it: a real S3 server that keeps IAM policies."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deployments.local.objectstore import Identity
from flows.backup.flow import backup
from flows.catalogue.flow import catalogue
from flows.catalogue.layout import MANIFEST
from flows.effect import NotDone
from flows.prove.flow import prove
from flows.prune.flow import prune
from flows.records import Kind
from flows.restore.flow import restore
from flows.verify.flow import verify
from tests.parts.scene import Scene
from tests.parts.store import BACKER, NOISE, PROVER, PRUNER

STORE = 'sse = "AES256"\nstorage_class = "STANDARD_IA"\nfrequent_storage_class = "STANDARD"\n'
SMALL_BYTES = 128 << 10
KINDS: tuple[Kind, ...] = ("daily", "frequent")


@pytest.fixture(scope="module")
def lake(stage: Scene) -> Scene:
    """A stage whose bucket has classes, with tables that need one part, and several; a backup of each kind."""
    stage.toml(more=STORE)
    with stage.database.connect() as connection:
        connection.execute(NOISE)
        connection.execute("create table public.some as select * from public.noise limit 1000")
    for kind in KINDS:
        backup("test", kind)
    return stage


def heads(lake: Scene, backup_id: str) -> dict[str, Any]:
    """What the server says of each object of a backup, by its name in the folder."""
    client: Any = vars(lake.objects)["_s3"]
    found = lake.one(backup_id)
    assert found
    prefix = lake.place.prefix
    return {
        key.removeprefix(found.folder): client.head_object(Bucket=lake.place.bucket, Key=f"{prefix}/{key}")
        for key in found.keys
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_is_labelled_encrypted_and_in_its_class(lake: Scene, kind: Kind) -> None:
    made = min(each.id for each in lake.bucket.backups if each.kind == kind)
    prove("test", made)
    found = lake.one(made)
    assert found

    of = heads(lake, made)

    labels = {
        "backup-id": made,
        "backup-date": f"{found.believed.snapshot.time:%Y-%m-%dT%H:%M:%SZ}",
        "service": "curator",
    }
    assert {name: head["Metadata"] for name, head in of.items()} == dict.fromkeys(of, labels)
    assert {head["ServerSideEncryption"] for head in of.values()} == {"AES256"}
    assert {name.partition("-")[0] for name in of} >= {MANIFEST, f"{MANIFEST}.sig", "proof"}
    large = {name for name, head in of.items() if head["ContentLength"] >= SMALL_BYTES}
    assert {name.split(".")[-4] for name in large} == {"noise", "some"}  # in several parts, and in one
    infrequent = {name for name, head in of.items() if head.get("StorageClass", "STANDARD") == "STANDARD_IA"}
    assert infrequent == (large if kind == "daily" else set())


@pytest.fixture
def parted(lake: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Writing, reading and pruning with a key each, that may do its own part and nothing more."""
    for prefix, identity in {"": BACKER, "READING_": PROVER, "PRUNING_": PRUNER}.items():
        for variable, value in key_of(identity, prefix).items():
            monkeypatch.setenv(variable, value)
    return lake


def key_of(identity: Identity, prefix: str = "") -> dict[str, str]:
    return {
        f"{prefix}AWS_ACCESS_KEY_ID": identity.access_key,
        f"{prefix}AWS_SECRET_ACCESS_KEY": identity.secret_key,
    }


def out_of_date(parted: Scene) -> str:
    """A backup that no rule keeps."""
    newest = max(each.id for each in parted.bucket.backups)
    return parted.again(newest, datetime.now(UTC).replace(microsecond=0) - timedelta(days=600), kind="on-demand")


def test_writing_reading_and_pruning_go_by_three_keys_each_for_its_part(
    parted: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flows")
    before = {each.id for each in parted.bucket.backups}
    backup("test", "daily")
    (made,) = {each.id for each in parted.bucket.backups} - before

    assert prove("test", made).startswith(f"{made} is proven")
    assert verify("test").endswith(" verified, all are what was stored")
    assert "0 not believable" in catalogue("test")
    assert "unfinished uploads can't be listed with these rights" in caplog.text
    assert made in restore("test", which=made, dry_run=True)

    old = out_of_date(parted)
    assert "1 backup deleted" in prune("test", really=True)
    assert old not in {each.id for each in parted.bucket.found}


Swap = tuple[str, Identity, Callable[[str], str], str]
SWAPS: list[Swap] = [
    ("", PROVER, backup, "s3:PutObject"),
    ("READING_", BACKER, prove, "s3:GetObject"),
    ("PRUNING_", PROVER, prune, "s3:ListBucketMultipartUploads"),
]


@pytest.mark.parametrize("swap", SWAPS, ids=["backup", "prove", "prune"])
def test_the_key_of_another_part_is_refused(parted: Scene, monkeypatch: pytest.MonkeyPatch, swap: Swap) -> None:
    prefix, identity, act, right = swap
    out_of_date(parted)
    for variable, value in key_of(identity, prefix).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(NotDone, match=f"these credentials may not; grant them {right}"):
        act("test")
