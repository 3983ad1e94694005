"""The blocks of keys and of the store: what they check, hide and refuse."""

import inspect
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.credentials import AwsCredentials
from pydantic import SecretStr, ValidationError

from blocks import stream
from blocks.errors import Missing, Refused
from blocks.keys import PAPER_KINDS, BackupKeys, NewKeys, RestoreKey, new_keys
from blocks.storage.block import BackupStore, Purpose
from blocks.storage.objects import DirectoryPlace, S3Place
from deployments.local.objectstore import Identity
from deployments.local.stage import with_parted_keys
from tests.parts.store import READER, WRITER

NEW = new_keys()
BLOCKS: list[type[Block]] = [BackupKeys, RestoreKey, BackupStore]


def backup_keys(new: NewKeys = NEW, **changed: Any) -> BackupKeys:
    fields: dict[str, Any] = {
        "recipients": [new.team_recipient, new.escrow_recipient],
        "verifying_keys": [new.backup_verifying_key],
        "proof_verifying_keys": [new.proof_verifying_key],
        "signing_key": SecretStr(new.backup_signing_key),
    }
    return BackupKeys(**{**fields, **changed})


def restore_key(folder: Path, text: str = NEW.team_identity, mode: int = 0o600) -> RestoreKey:
    path = folder / "identity.txt"
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return RestoreKey(identity_file=str(path))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_says_what_it_and_each_field_is_for(block: type[Block]) -> None:
    own = [field for name, field in block.model_fields.items() if name in inspect.get_annotations(block)]
    assert own
    assert all(str(field.description).endswith(".") and field.title for field in own)
    assert str(block.get_description()).endswith(".")
    assert re.fullmatch(r"[a-z-]+", vars(block)["_block_type_slug"])


@pytest.mark.parametrize("block", BLOCKS)
def test_the_example_of_a_block_runs(block: type[Block]) -> None:
    example = block.get_code_example()
    assert example
    exec(compile(example.strip().removeprefix("```python").removesuffix("```"), block.__name__, "exec"), {})  # noqa: S102


def test_new_keys_hide_what_is_secret_and_show_what_is_public() -> None:
    shown = repr(NEW)
    secrets = [NEW.team_identity, NEW.escrow_identity, NEW.backup_signing_key, NEW.proof_signing_key]
    assert not [secret for secret in secrets if secret in shown]
    assert NEW.team_recipient in shown
    assert len(set(vars(NEW).values())) == 8


def test_backup_keys_sign_what_they_verify() -> None:
    keys = backup_keys()
    assert keys.verify(b"data", keys.sign(b"data")) == keys.signing_key_id == stream.key_id(NEW.backup_verifying_key)
    assert NEW.backup_signing_key not in repr(keys)


BACKUP = b'{"format":"shipkeeper-backup/1","tools":{"format":"shipkeeper-proof/1"}}'
PROOF = b'{"format":"shipkeeper-proof/1"}'
TWICE = b'{"format":"shipkeeper-proof/1","format":"shipkeeper-backup/1"}'


def test_each_kind_of_paper_is_believed_from_its_own_role_alone() -> None:
    signers = {kind: backup_keys(signing_key=SecretStr(getattr(NEW, f"{kind}_signing_key"))) for kind in PAPER_KINDS}
    for kind, paper in (("backup", BACKUP), ("proof", PROOF), ("backup", TWICE)):
        other = next(each for each in PAPER_KINDS if each != kind)
        assert backup_keys().verify(paper, signers[kind].sign(paper)) == signers[kind].signing_key_id
        with pytest.raises(Refused, match=f"{signers[other].signing_key_id} is trusted for {other}s, not for {kind}s"):
            backup_keys().verify(paper, signers[other].sign(paper))


def test_a_local_stage_of_before_the_roles_were_parted_still_comes_up() -> None:
    old = {
        "BACKUP_VERIFYING_KEYS": f"{NEW.backup_verifying_key},{NEW.proof_verifying_key}",
        "BACKUP_SIGNING_KEY": NEW.backup_signing_key,
        "PROOF_SIGNING_KEY": NEW.proof_signing_key,
    }
    parted = {"BACKUP_VERIFYING_KEYS": NEW.backup_verifying_key, "PROOF_VERIFYING_KEYS": NEW.proof_verifying_key}
    assert with_parted_keys(old) == old | parted
    assert with_parted_keys(old | parted) == old | parted


def test_a_check_says_when_a_key_serves_the_other_role() -> None:
    with pytest.raises(Refused, match="is trusted for backups, not for proofs"):
        backup_keys().check("proof")
    prover = backup_keys(signing_key=SecretStr(NEW.proof_signing_key))
    assert f"signs with {stream.key_id(NEW.proof_verifying_key)}" in prover.check("proof")
    with pytest.raises(Refused, match="is trusted for backups and for proofs: name it in one"):
        backup_keys(proof_verifying_keys=[NEW.backup_verifying_key]).check()


def test_a_check_tells_of_every_key() -> None:
    said = backup_keys().check()
    assert "2 recipients" in said
    assert f"signs with {stream.key_id(NEW.backup_verifying_key)}" in said
    assert stream.key_id(NEW.proof_verifying_key) in said
    assert "warning" not in said
    assert "signs nothing" in backup_keys(signing_key=None).check()


@pytest.mark.parametrize("times", [1, 2])
def test_a_check_warns_about_a_single_recipient(times: int) -> None:
    assert "warning: add the escrow's" in backup_keys(recipients=[NEW.team_recipient] * times).check()


def test_a_signing_key_that_nobody_trusts_is_refused_by_a_check() -> None:
    with pytest.raises(Refused, match="no trusted key"):
        backup_keys(verifying_keys=[new_keys().backup_verifying_key]).check()


@pytest.mark.parametrize(
    "wrong",
    [
        {"recipients": []},
        {"recipients": ["age1nonsense"]},
        {"verifying_keys": ["short"]},
        {"signing_key": SecretStr("canary")},
    ],
)
def test_a_key_that_is_none_is_refused_by_a_check(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused) as error:
        backup_keys(**wrong).check()
    assert "canary" not in str(error.value)


def test_nothing_is_signed_without_a_signing_key() -> None:
    with pytest.raises(Refused, match="hold no signing key"):
        backup_keys(signing_key=None).sign(b"data")


def test_a_restore_key_opens_with_every_identity_of_its_file(tmp_path: Path) -> None:
    text = f"# created: 2026-11-24\n# public key: age1...\n{NEW.team_identity}\n\n{NEW.escrow_identity}\n"
    key = restore_key(tmp_path, text)
    assert key.identities() == [NEW.team_identity, NEW.escrow_identity]
    assert NEW.team_recipient[:10] in key.check([NEW.team_recipient])
    assert NEW.team_identity not in key.check() + repr(key)


def test_a_restore_key_that_opens_no_new_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="opens no new backup"):
        restore_key(tmp_path).check([NEW.escrow_recipient])


def test_a_missing_identity_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"put the team's age identity there \(mode 0600\)"):
        RestoreKey(identity_file=str(tmp_path / "identity.txt")).check()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_an_identity_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Refused, match="chmod 600") as error:
        restore_key(tmp_path, mode=mode).identities()
    assert stat.filemode(mode | stat.S_IFREG) in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "canary"])
def test_an_identity_file_without_an_identity_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Refused) as error:
        restore_key(tmp_path, text).check()
    assert "canary" not in str(error.value)


def test_an_identity_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(Refused, match="cannot be read"):
        RestoreKey(identity_file=str(tmp_path)).identities()


# The store's block


def backup_store(place: S3Place, identity: Identity | None = None, **changed: Any) -> BackupStore:
    credentials = AwsCredentials(
        aws_access_key_id=identity.access_key if identity else place.access_key,
        aws_secret_access_key=SecretStr(identity.secret_key if identity else place.secret_key or ""),
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(
            endpoint_url=place.endpoint, config={"connect_timeout": 2, "retries": {"total_max_attempts": 1}}
        ),
    )
    fields: dict[str, Any] = {"bucket": place.bucket, "prefix": place.prefix, "credentials": credentials}
    return BackupStore(**{**fields, **changed})


def test_a_store_becomes_the_place_that_its_credentials_name(place: S3Place) -> None:
    found = backup_store(place).place()
    assert isinstance(found, S3Place)
    assert (found.endpoint, found.secret_key, found.sse) == (place.endpoint, place.secret_key, "AES256")
    assert (found.connect_timeout_s, found.read_timeout_s, found.attempts) == (5, 60, 5)
    assert found.config["connect_timeout"] == 2
    assert str(place.secret_key) not in repr(backup_store(place)) + repr(found)


def test_a_certificate_authority_of_the_credentials_is_kept(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    trusting = [
        (AwsClientParameters(verify_cert_path=ca), str(ca)),
        (AwsClientParameters(verify=False), False),
        (AwsClientParameters(), True),
    ]
    for parameters, wanted in trusting:
        credentials = AwsCredentials(aws_client_parameters=parameters)
        found = BackupStore(bucket="b", credentials=credentials).place()
        assert isinstance(found, S3Place)
        assert found.verify == wanted


@pytest.mark.parametrize("purpose", ["writer", "reader", "pruner"])
def test_a_check_of_a_store_leaves_nothing(place: S3Place, tmp_path: Path, purpose: Purpose) -> None:
    for store in (backup_store(place), BackupStore(kind="directory", folder=str(tmp_path))):
        assert f"lets the {purpose} do its part" in store.check(purpose)
        assert [*store.objects().list(), *store.objects().uploads()] == []


@pytest.mark.parametrize(
    ("identity", "purpose", "right"),
    [(READER, "writer", "s3:PutObject"), (READER, "pruner", "s3:DeleteObject"), (WRITER, "reader", "s3:ListBucket")],
)
def test_a_check_names_the_right_that_is_missing(
    place: S3Place, identity: Identity, purpose: Purpose, right: str
) -> None:
    with pytest.raises(Refused, match=right) as error:
        backup_store(place, identity).check(purpose)
    assert identity.secret_key not in str(error.value)


def test_a_reader_is_let_to_read(place: S3Place) -> None:
    assert "lets the reader do its part" in backup_store(place, READER).check("reader")


def test_a_check_misses_a_bucket_that_is_not_there(place: S3Place) -> None:
    with pytest.raises(Missing, match="NoSuchBucket"):
        backup_store(place, bucket="no-such-bucket").check()


def test_frequent_backups_have_a_storage_class_of_their_own() -> None:
    store = BackupStore(bucket="b", storage_class="STANDARD_IA", frequent_storage_class="STANDARD")
    assert (store.class_of(frequent=True), store.class_of(frequent=False)) == ("STANDARD", "STANDARD_IA")


def test_a_store_in_a_directory_needs_no_credentials() -> None:
    assert BackupStore(kind="directory", folder="/backups", prefix="p").place() == DirectoryPlace("/backups", "p")


@pytest.mark.parametrize(("kind", "wanted"), [("s3", "bucket"), ("directory", "folder")])
def test_a_store_that_names_no_place_is_refused(kind: str, wanted: str) -> None:
    with pytest.raises(ValidationError, match=f"needs a {wanted}"):
        BackupStore.model_validate({"kind": kind})
