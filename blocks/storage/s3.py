"""A store of backups in a bucket that speaks S3.

Bytes are held to their sha256 on every way: each part goes up with it, the store's answers are compared with ours, and
what was damaged on the way is sent once more, then given up. What hangs ends within the place's time-outs.
Errors name the right that is missing; they never hold the store's own text, an address or a key.
"""

import base64
import contextlib
import email.utils
import functools
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from blocks.errors import Garbled, Missing, Refused, Unreachable
from blocks.storage.objects import (
    IN_FLIGHT,
    NO_METADATA,
    PART_BYTES,
    Entry,
    Objects,
    Part,
    S3Place,
    Stored,
    Unfinished,
    Upload,
)
from blocks.storage.s3_errors import code_of, told, undeleted

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PIECE = 1 << 20
_DELETED_AT_ONCE = 1000
_CONNECTIONS = 16
_ONE_AT_A_TIME = threading.Lock()  # clients are made: a session is not for several threads
_LEAST_BILLED_BYTES = 128 << 10  # of an object in the infrequent classes, https://aws.amazon.com/s3/pricing


class S3Objects(Objects):
    """The open store of an S3Place."""

    def __init__(self, place: S3Place) -> None:
        self._bucket = place.bucket
        self._prefix = f"{place.prefix.strip('/')}/" if place.prefix.strip("/") else ""
        self._attempts = place.attempts
        self._sse = {"ServerSideEncryption": place.sse} if place.sse else {}
        self._s3 = _client(place)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        only_if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        storage_class: str | None = None,
    ) -> Stored:
        """Store data; see Objects.put."""
        more: dict[str, Any] = {"IfNoneMatch": "*"} if only_if_absent else {}
        return _put(self._s3, self._named(key), key, data, {**self._kept(metadata, storage_class), **more})

    def upload(
        self,
        key: str,
        *,
        part_bytes: int = PART_BYTES,
        in_flight: int = IN_FLIGHT,
        metadata: Mapping[str, str] = NO_METADATA,
        storage_class: str | None = None,
    ) -> Upload:
        """Store a stream; see Objects.upload. A stream of one part is a single put."""
        kept = self._kept(metadata, storage_class)
        return _S3Upload(self._s3, key, self._named(key), kept, (part_bytes, in_flight))

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Bytes of key; a connection that breaks is taken up again where it broke."""
        if length == 0:
            return
        end = "" if length is None else start + length - 1
        at, failures = start, 0
        while True:
            try:
                for piece in self._read_once(key, f"bytes={at}-{end}" if at or length is not None else None):
                    at, failures = at + len(piece), 0
                    yield piece
            except Unreachable:
                failures += 1
                if failures >= self._attempts or at == start:  # botocore has tried already when nothing came
                    raise
                continue
            return

    def head(self, key: str, parts: Sequence[Part] = ()) -> Stored:
        """What the store knows of key; see Objects.head."""
        with told(f"look at {key}", "s3:GetObject"):
            answer = self._s3.head_object(**self._named(key), ChecksumMode="ENABLED")
        size, checksum = answer["ContentLength"], answer.get("ChecksumSHA256")
        if checksum and parts and (checksum not in _checksums(parts) or size != sum(part.bytes for part in parts)):
            raise Garbled(f"{key} is not what was written: the store's sha256 or size is not that of its parts")
        whole = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        return Stored(key, size, whole, tuple(parts) if checksum else ())

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object; see Objects.list."""
        with told(f"list {prefix or 'everything'}", "s3:ListBucket"):
            for entry in self._pages("list_objects_v2", prefix, "Contents"):
                yield Entry(self._relative(entry["Key"]), entry["Size"], entry["LastModified"].astimezone(UTC))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete keys, 1000 a request. An answer of 200 can hold errors."""
        for first in range(0, len(keys), _DELETED_AT_ONCE):
            some = keys[first : first + _DELETED_AT_ONCE]
            with told(f"delete {len(some)} objects", "s3:DeleteObject"):
                answer = self._s3.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": self._prefix + key} for key in some], "Quiet": True},
                )
            undeleted([code_of(error) for error in answer.get("Errors", ())], len(some))

    def uploads(self, prefix: str = "") -> Iterator[Unfinished]:
        """Every multipart upload that is open; see Objects.uploads."""
        with told("list unfinished uploads", "s3:ListBucketMultipartUploads"):
            for one in self._pages("list_multipart_uploads", prefix, "Uploads"):
                yield Unfinished(self._relative(one["Key"]), one["UploadId"], one["Initiated"].astimezone(UTC))

    def abort(self, unfinished: Unfinished) -> None:
        """Free the parts of an upload; see Objects.abort."""
        _abort(self._s3, self._named(unfinished.key), unfinished.id)

    def now(self) -> datetime:
        """The Date of the store's answer, which it gives also to those who may not look."""
        with told("ask the store's clock", "s3:ListBucket"):
            try:
                headers = self._s3.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
            except ClientError as error:
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                if "date" not in headers:
                    raise
        if "date" not in headers:
            raise Garbled("the store's answer carries no Date: ages of objects cannot be judged")
        return email.utils.parsedate_to_datetime(headers["date"])

    def free_bytes(self) -> int | None:
        """A bucket has no end."""
        return None

    def _read_once(self, key: str, span: str | None) -> Iterator[bytes]:
        more: dict[str, Any] = {"Range": span} if span else {}
        with told(f"read {key}", "s3:GetObject"):
            try:
                body = self._s3.get_object(**self._named(key), **more)["Body"]
            except ClientError as error:
                if code_of(error.response.get("Error", {})) == "InvalidRange":  # behind the end: no bytes, as of a file
                    return
                raise
            with contextlib.closing(body):
                yield from body.iter_chunks(_PIECE)

    def _named(self, key: str) -> Any:
        if not key or key.startswith("/"):
            raise Refused(f"{key!r} is no key: it must be relative to the store's prefix")
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _pages(self, operation: str, prefix: str, within: str) -> Iterator[Any]:
        s3: Any = self._s3  # its types know a paginator only by a literal name
        for page in s3.get_paginator(operation).paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
            yield from page.get(within, ())

    def _relative(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def _kept(self, metadata: Mapping[str, str], storage_class: str | None) -> dict[str, Any]:
        kept: dict[str, Any] = {"Metadata": dict(metadata), **self._sse}
        return {**kept, "StorageClass": storage_class} if storage_class else kept


class _S3Upload(Upload):
    """Parts in a few threads. It waits for the oldest before it hands over the next: a slow store bounds the memory."""

    def __init__(self, s3: "S3Client", key: str, named: Any, kept: dict[str, Any], sizes: tuple[int, int]) -> None:
        part_bytes, self._in_flight = sizes
        super().__init__(key, part_bytes)
        self._s3, self._named, self._kept = s3, named, kept
        self._id: str | None = None
        self._sent = 0
        self._flying: deque[Future[_SentPart]] = deque()
        self._there: list[_SentPart] = []
        self._threads = ThreadPoolExecutor(self._in_flight, thread_name_prefix="part")

    def _send(self, part: bytearray) -> None:
        upload = {**self._named, "UploadId": self._begun()}
        while len(self._flying) >= self._in_flight:
            self._there.append(self._flying.popleft().result())
        self._sent += 1
        self._flying.append(self._threads.submit(_put_part, self._s3, upload, self._key, self._sent, part))

    def _begun(self) -> str:
        if self._id is None:
            with told(f"begin the upload of {self._key}", "s3:PutObject"):
                answer = self._s3.create_multipart_upload(**self._named, ChecksumAlgorithm="SHA256", **self._kept)
            self._id = answer["UploadId"]
        return self._id

    def _finish(self, last: bytearray) -> Stored:
        if self._id is None:
            self._threads.shutdown()
            return _put(self._s3, self._named, self._key, last, self._kept)
        self._send(last)
        self._there += [part.result() for part in self._flying]
        self._threads.shutdown()
        return self._completed(self._id)

    def _completed(self, upload_id: str) -> Stored:
        parts = tuple(Part(part.bytes, part.sha256) for part in self._there)
        stored = Stored(self._key, sum(part.bytes for part in parts), self._sha256.hexdigest(), parts)
        try:
            answer = self._complete(upload_id)
        except Missing:
            if not self._is_there(stored.bytes):
                raise
            return stored  # the first answer was lost, and botocore asked again
        if answer.get("ChecksumSHA256", _composite(parts)) != _composite(parts):
            raise Garbled(f"{self._key} is not what was sent: the store answers with another sha256")
        return stored

    def _complete(self, upload_id: str) -> Any:
        listed: Any = [part.listed for part in self._there]
        with told(f"complete the upload of {self._key}", "s3:PutObject"):
            return self._s3.complete_multipart_upload(
                **self._named, UploadId=upload_id, MultipartUpload={"Parts": listed}
            )

    def _is_there(self, size_bytes: int) -> bool:
        """By the listing: who writes may not look at an object. Each part was checked when it was sent."""
        bucket, key = self._named["Bucket"], self._named["Key"]
        with told(f"look for {self._key}", "s3:ListBucket"):
            found: Any = self._s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", ())
        return any((entry["Key"], entry["Size"]) == (key, size_bytes) for entry in found)

    def abort(self) -> None:
        """Leave nothing; see Upload.abort."""
        self._threads.shutdown(cancel_futures=True)  # waits: a part that arrives after the abort would stay
        if self._id is not None:
            _abort(self._s3, self._named, self._id)


@dataclass(frozen=True)
class _SentPart(Part):
    number: int
    etag: str

    @property
    def listed(self) -> dict[str, Any]:
        return {"PartNumber": self.number, "ETag": self.etag, "ChecksumSHA256": _base64(self.sha256)}


def _put(s3: "S3Client", named: Any, key: str, data: Any, kept: Mapping[str, Any]) -> Stored:
    if len(data) < _LEAST_BILLED_BYTES:
        kept = {name: value for name, value in kept.items() if name != "StorageClass"}

    def send(checksum: str) -> Any:
        with told(f"write {key}", "s3:PutObject"):
            return s3.put_object(**named, Body=data, ChecksumSHA256=checksum, **kept)

    sha256 = hashlib.sha256(data).hexdigest()
    _unharmed(key, sha256, send)
    return Stored(key, len(data), sha256, (Part(len(data), sha256),))


def _put_part(s3: "S3Client", upload: Any, key: str, number: int, data: Any) -> _SentPart:
    def send(checksum: str) -> Any:
        with told(f"write part {number} of {key}", "s3:PutObject"):
            return s3.upload_part(**upload, PartNumber=number, Body=data, ChecksumSHA256=checksum)

    sha256 = hashlib.sha256(data).hexdigest()
    answer = _unharmed(key, sha256, send)
    return _SentPart(len(data), sha256, number, answer["ETag"])


def _unharmed(key: str, sha256: str, send: Callable[[str], Any]) -> Any:
    """Send once more what was damaged on the way, or what the store says it has otherwise; then give up."""
    wanted = _base64(sha256)
    with contextlib.suppress(Garbled):
        answer = send(wanted)
        if answer.get("ChecksumSHA256", wanted) == wanted:
            return answer
    answer = send(wanted)
    if answer.get("ChecksumSHA256", wanted) != wanted:
        raise Garbled(f"{key} is not what was sent: the store answered twice with another sha256")
    return answer


def _abort(s3: "S3Client", named: Any, upload_id: str) -> None:
    with contextlib.suppress(Missing), told("abort an unfinished upload", "s3:AbortMultipartUpload"):
        s3.abort_multipart_upload(**named, UploadId=upload_id)


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _composite(parts: Sequence[Part]) -> str:
    """S3's checksum of an object of several parts: the sha256 of their sha256, and how many they are."""
    digests = b"".join(bytes.fromhex(part.sha256) for part in parts)
    return f"{base64.b64encode(hashlib.sha256(digests).digest()).decode()}-{len(parts)}"


def _checksums(parts: Sequence[Part]) -> set[str]:
    """What the store may call these parts: one part was a single put, or an upload of one."""
    return {_composite(parts), *([_base64(parts[0].sha256)] if len(parts) == 1 else [])}


def _client(place: S3Place) -> "S3Client":
    config: dict[str, Any] = {
        "connect_timeout": place.connect_timeout_s,
        "read_timeout": place.read_timeout_s,
        "retries": {"mode": "standard", "total_max_attempts": place.attempts},
        "max_pool_connections": _CONNECTIONS,
        "tcp_keepalive": True,
        **place.config,
    }
    with told("open the store", "its credentials"), _ONE_AT_A_TIME:
        make = _session if place.access_key else boto3.session.Session
        session: Any = make(profile_name=place.profile)
        return session.client(
            "s3",
            endpoint_url=place.endpoint,
            region_name=place.region,
            verify=place.verify,
            aws_access_key_id=place.access_key,
            aws_secret_access_key=place.secret_key,
            aws_session_token=place.session_token,
            config=Config(**config),
        )


@functools.cache
def _session(*, profile_name: str | None) -> "boto3.session.Session":
    """For clients that bring their key: making it takes 0.1 s, a client of it 5 ms."""
    return boto3.session.Session(profile_name=profile_name)
