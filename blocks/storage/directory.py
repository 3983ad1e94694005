"""A store of backups in a directory of this machine: the same contract as S3, no server.

An object appears whole or not at all: it is written to a temporary file beside its name, synced, and then given its
name (os.link where that must be free). A temporary file (".NAME.XXXXXXXX~") is an unfinished upload. Metadata and
storage classes mean nothing here; whoever may write to the folder may delete from it.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from blocks.errors import BlockError, Garbled, Missing, Refused, Unreachable
from blocks.storage.objects import (
    IN_FLIGHT,
    NO_METADATA,
    PART_BYTES,
    DirectoryPlace,
    Entry,
    Objects,
    Part,
    Stored,
    Unfinished,
    Upload,
)

_PIECE = 1 << 20
_MARK_BYTES = 8
_TRIES = 5
_ANSWER_IS_NO = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EACCES: "this user lacks the right",
    errno.EPERM: "this user lacks the right",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EEXIST: "a file is where a folder must be",
    errno.ENOTDIR: "a file is where a folder must be",
    errno.EISDIR: "a folder is where a file must be",
    errno.EFBIG: "the file would be too big",
}


class DirectoryObjects(Objects):
    """The open store of a DirectoryPlace."""

    def __init__(self, place: DirectoryPlace) -> None:
        self._root = Path(place.folder).absolute() / place.prefix.strip("/")

    def put(
        self,
        key: str,
        data: bytes,
        *,
        only_if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,  # noqa: ARG002 (no file has any)
        storage_class: str | None = None,  # noqa: ARG002 (nor a class)
    ) -> Stored:
        """Store data; see Objects.put."""
        with _DirectoryUpload(self._root, key, max(len(data), 1), only_if_absent=only_if_absent) as upload:
            upload.write(data)
        return upload.stored

    def upload(
        self,
        key: str,
        *,
        part_bytes: int = PART_BYTES,
        in_flight: int = IN_FLIGHT,  # noqa: ARG002 (a part is written before the next is taken)
        metadata: Mapping[str, str] = NO_METADATA,  # noqa: ARG002
        storage_class: str | None = None,  # noqa: ARG002
    ) -> Upload:
        """Store a stream; see Objects.upload."""
        return _DirectoryUpload(self._root, key, part_bytes, only_if_absent=False)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Bytes of key; see Objects.read."""
        left = length
        with _told(f"read {key}"), _path(self._root, key).open("rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE if left is None else min(_PIECE, left)):
                left = None if left is None else left - len(piece)
                yield piece

    def head(self, key: str, parts: Sequence[Part] = ()) -> Stored:
        """What is known of key; given its parts, the file is read and compared with them."""
        with _told(f"look at {key}"), _path(self._root, key).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not parts:
                return Stored(key, size, None)
            return _compared(key, file, size, parts)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object; see Objects.list."""
        for key, path in self._files(prefix):
            if key.startswith(prefix) and not _is_unfinished(path.name):
                with contextlib.suppress(FileNotFoundError):  # deleted while we list
                    facts = path.stat()
                    yield Entry(key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete files, and the folders that they leave empty."""
        for key in keys:
            path = _path(self._root, key)
            with _told(f"delete {key}"):
                path.unlink(missing_ok=True)
            _drop_empty_folders(path.parent, self._root)

    def uploads(self, prefix: str = "") -> Iterator[Unfinished]:
        """Every temporary file; it is as old as its last write."""
        for key, path in self._files(prefix):
            whole = str(PurePosixPath(key).parent / path.name[1 : -_MARK_BYTES - 2])
            if _is_unfinished(path.name) and whole.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    yield Unfinished(whole, key, datetime.fromtimestamp(path.stat().st_mtime, UTC))

    def abort(self, unfinished: Unfinished) -> None:
        """Delete the temporary file; its writer then finds no file to name."""
        path = self._root / unfinished.id
        if not _is_unfinished(path.name) or ".." in path.parts:
            raise Refused(f"{unfinished.id} names no unfinished upload")
        with _told(f"abort the upload of {unfinished.key}"):
            path.unlink(missing_ok=True)

    def now(self) -> datetime:
        """This machine's clock."""
        return datetime.now(UTC)

    def free_bytes(self) -> int | None:
        """What this user can still write to the file system."""
        folder = next(path for path in (self._root, *self._root.parents) if path.exists())
        with _told("look at the free space"):
            return shutil.disk_usage(folder).free

    def _files(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """Every file in the folder that holds prefix, with its key, sorted as S3 sorts."""
        if prefix.startswith("/") or ".." in PurePosixPath(prefix).parts:
            raise Refused(f"{prefix!r} is no prefix of keys: it must stay below the store's own")
        top = self._root / PurePosixPath(f"{prefix}x").parent
        with _told(f"list {prefix or 'everything'}"):
            found = [Path(folder) / name for folder, _, names in os.walk(top, onerror=_but_absent) for name in names]
        yield from sorted((str(path.relative_to(self._root)), path) for path in found)


class _DirectoryUpload(Upload):
    """A temporary file, which gets its name at the end."""

    def __init__(self, root: Path, key: str, part_bytes: int, *, only_if_absent: bool) -> None:
        super().__init__(key, part_bytes)
        self._final = _path(root, key)
        self._only_if_absent = only_if_absent
        self._parts: list[Part] = []
        self._temporary, self._file = _temporary_beside(self._final, root)

    def _send(self, part: bytearray) -> None:
        with _told(f"write {self._key}"):
            self._file.write(part)
        self._parts.append(Part(len(part), hashlib.sha256(part).hexdigest()))

    def _finish(self, last: bytearray) -> Stored:
        self._send(last)
        with _told(f"write {self._key}"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._name()
            _sync_folder(self._final.parent)
        return Stored(self._key, sum(part.bytes for part in self._parts), self._sha256.hexdigest(), tuple(self._parts))

    def _name(self) -> None:
        try:
            if self._only_if_absent:
                os.link(self._temporary, self._final)
                self._temporary.unlink()
            else:
                self._temporary.replace(self._final)
        except FileExistsError:
            raise Refused(f"{self._key} exists already: it is written once and never changed") from None
        except FileNotFoundError:
            raise Missing(f"the unfinished upload of {self._key} is gone: somebody aborted it") from None

    def abort(self) -> None:
        """Leave nothing; see Upload.abort."""
        with _told(f"abort the upload of {self._key}"):
            with contextlib.suppress(OSError):  # a full disk is told at the write, not again at the close
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def _path(root: Path, key: str) -> Path:
    parts = PurePosixPath(key).parts
    plain = key and str(PurePosixPath(key)) == key and not key.startswith("/") and ".." not in parts and "\0" not in key
    if not plain or _is_unfinished(parts[-1]):
        raise Refused(f"{key!r} is no key: it must be a relative path with plain components")
    return root / key


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith("~")


def _temporary_beside(final: Path, root: Path) -> tuple[Path, BinaryIO]:
    """A new file in the folder of final, which is made; a deletion next door may take the folder away in between."""
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(_MARK_BYTES // 2)}~")
    with _told(f"write {final.relative_to(root)}"):
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                _make_folders(final.parent)
                return temporary, temporary.open("xb")
    raise Unreachable(f"the folder of {final.name} vanishes as soon as it is made: something else deletes there")


def _make_folders(folder: Path) -> None:
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """A name is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_empty_folders(folder: Path, root: Path) -> None:
    with contextlib.suppress(OSError):  # not empty, or gone already
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _compared(key: str, file: BinaryIO, size: int, parts: Sequence[Part]) -> Stored:
    whole = hashlib.sha256()
    for number, part in enumerate(parts, 1):
        data = file.read(part.bytes)
        whole.update(data)
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise Garbled(f"{key} is not what was written: part {number} of {len(parts)} has another sha256")
    if file.read(1):
        raise Garbled(f"{key} is not what was written: it goes on behind its {len(parts)} parts")
    return Stored(key, size, whole.hexdigest(), tuple(parts))


def _but_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextlib.contextmanager
def _told(doing: str) -> Generator[None]:
    """Say an error of the file system in our words."""
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"could not {doing}: there is no such object") from None
    except OSError as error:
        raise _translated(error, doing) from None


def _translated(error: OSError, doing: str) -> BlockError:
    reason = _ANSWER_IS_NO.get(error.errno or 0)
    if reason:
        return Refused(f"could not {doing}: {reason}")
    return Unreachable(f"could not {doing}: {errno.errorcode.get(error.errno or 0, type(error).__name__)}")
