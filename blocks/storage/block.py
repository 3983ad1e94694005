"""Where backups are kept, as a Prefect block: its fields become the plain place that workers open.

What writes, what reads and what prunes may be different blocks, each with credentials for its part alone.
"""

import contextlib
import functools
import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from prefect.blocks.core import Block
from prefect_aws.credentials import AwsCredentials
from pydantic import Field, model_validator

from blocks.errors import Missing, Refused, Unreachable
from blocks.storage.objects import DirectoryPlace, Objects, Place, S3Place, place_from_json

Purpose = Literal["writer", "reader", "pruner"]
_CLOCKS_APART = timedelta(seconds=60)


class BackupStore(Block):
    """The bucket, or the directory, in which backups are kept.

    Example:
        ```python
        import tempfile

        from blocks.storage.block import BackupStore

        with tempfile.TemporaryDirectory() as folder:
            store = BackupStore(kind="directory", folder=folder, prefix="backups")
            store.objects().put("hello.txt", b"hello", only_if_absent=True)
            store.check("reader")
        ```
    """

    _block_type_name = "Backup Store"
    _block_type_slug = "backup-store"
    _description = "A prefix of an S3 bucket, or of a directory, in which backups are kept."

    kind: Literal["s3", "directory"] = Field(
        default="s3",
        title="Kind",
        description="Whether backups are kept in an S3 bucket or in a directory of the host.",
    )
    bucket: str = Field(default="", title="Bucket", description="The name of the S3 bucket.")
    prefix: str = Field(
        default="", title="Prefix", description="What every key begins with; nothing outside of it is read or changed."
    )
    credentials: AwsCredentials | None = Field(
        default=None,
        title="Credentials",
        description="Key, region, endpoint and time-outs of S3; without them the host's own role is used.",
    )
    storage_class: str | None = Field(
        default=None,
        title="Storage class",
        description="The S3 storage class of a backup's objects from 128 KiB on; none is the bucket's default.",
    )
    frequent_storage_class: str | None = Field(
        default=None,
        title="Frequent storage class",
        description="The S3 storage class of frequent backups, which live too briefly for the infrequent ones.",
    )
    sse: Literal["AES256", "aws:kms", "none"] = Field(
        default="AES256",
        title="Server-side encryption",
        description="What the store itself encrypts with, on top of our own encryption.",
    )
    folder: str = Field(
        default="", title="Folder", description="The directory that is the store, where the kind is so."
    )

    @model_validator(mode="after")
    def _names_a_place(self) -> Self:
        wanted = "bucket" if self.kind == "s3" else "folder"
        if not getattr(self, wanted):
            raise ValueError(f"a backup store of kind {self.kind} needs a {wanted}")
        return self

    def place(self) -> Place:
        """The plain value that opens this store in any process; it holds the secrets."""
        if self.kind == "directory":
            return DirectoryPlace(self.folder, self.prefix)
        return S3Place(
            bucket=self.bucket,
            prefix=self.prefix,
            sse=None if self.sse == "none" else self.sse,
            **_opened_by(self.credentials or AwsCredentials()),
        )

    def objects(self) -> Objects:
        """The open store, opened once a process: a client of S3 costs more than most of what is asked of it."""
        return _open(json.dumps(self.place().to_json(), sort_keys=True), os.getpid())

    def class_of(self, *, frequent: bool) -> str | None:
        """The storage class for a backup of this kind."""
        return self.frequent_storage_class if frequent else self.storage_class

    def check(self, purpose: Purpose = "writer") -> str:
        """Try what purpose needs, and leave nothing; one sentence, or the error that names the missing right."""
        objects = self.objects()
        key = f"check-{uuid.uuid4().hex}"
        next(objects.list("check-"), None)
        {"writer": _try_to_write, "reader": _try_to_read, "pruner": _try_to_delete}[purpose](objects, key)
        where = f"{self.bucket or self.folder}/{self.prefix}".rstrip("/")
        return f"{where} answers and lets the {purpose} do its part{_clock(objects)}"


@functools.lru_cache(maxsize=16)
def _open(place: str, _process: int) -> Objects:
    """A fork opens its own: connections are not shared."""
    return place_from_json(json.loads(place)).open()


def _opened_by(credentials: AwsCredentials) -> dict[str, Any]:
    parameters = credentials.aws_client_parameters
    return {
        "endpoint": parameters.endpoint_url,
        "region": credentials.region_name,
        "verify": _verified_by(parameters.verify, parameters.verify_cert_path),
        "config": parameters.config or {},
        **_key(credentials),
    }


def _verified_by(verify: object, ca: object) -> bool | str:
    if ca:
        return str(ca)
    return verify if isinstance(verify, bool) else str(verify or "") or True


def _key(credentials: AwsCredentials) -> dict[str, str | None]:
    """The key itself; a role to assume is assumed here, for as long as its session lasts."""
    if credentials.assume_role_arn:
        return _assumed(credentials)
    secret = credentials.aws_secret_access_key
    return {
        "access_key": credentials.aws_access_key_id,
        "secret_key": secret.get_secret_value() if secret else None,
        "session_token": credentials.aws_session_token,
        "profile": credentials.profile_name,
    }


def _assumed(credentials: AwsCredentials) -> dict[str, str | None]:
    from botocore.exceptions import BotoCoreError, ClientError

    session: Any = credentials.get_boto3_session
    try:
        key = session().get_credentials().get_frozen_credentials()
    except ClientError:
        raise Refused(f"the role {credentials.assume_role_arn} cannot be assumed with these credentials") from None
    except BotoCoreError as error:
        raise Unreachable(f"the role {credentials.assume_role_arn} is not given ({type(error).__name__})") from None
    return {"access_key": key.access_key, "secret_key": key.secret_key, "session_token": key.token}


def _try_to_write(objects: Objects, key: str) -> None:
    """Begin an upload, send a part, abort: it needs a writer's rights and leaves nothing, which a put would."""
    upload = objects.upload(key, part_bytes=1)
    try:
        upload.write(b"..")
    finally:
        upload.abort()
    next(objects.uploads(key), None)


def _try_to_read(objects: Objects, key: str) -> None:
    """Ask for what is not there: who may read is told so, who may not is refused."""
    with contextlib.suppress(Missing):
        objects.get(key)


def _try_to_delete(objects: Objects, key: str) -> None:
    objects.delete([key])


def _clock(objects: Objects) -> str:
    apart = abs(objects.now() - datetime.now(UTC))
    if apart <= _CLOCKS_APART:
        return ""
    return f" (warning: its clock and ours are {apart.total_seconds():.0f} s apart)"
