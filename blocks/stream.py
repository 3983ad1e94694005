"""Bytes in flight: counted, hashed, compressed (zstd), encrypted (age), signed (Ed25519), and the way back.

One rule kills most silent failures: a failed producer raises in the last reader, and the end of a stream is never taken
for success. What is packed here, stock tools open: `age -d -i KEY FILE | zstd -d`.
It never keeps a whole stream in memory, never writes to disk, and knows neither Postgres nor the store.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any, Protocol

import pyrage
import xxhash
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blocks.errors import Garbled, Refused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE = 1 << 20
ZSTD_VERSION = zstd.zstd_version
_QUEUED_PIECES = 4
_STOP_WAIT_S = 10.0
_KEY_BYTES = 32  # Ed25519's, private and public
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ: Linux only, and absent from some builds of Python

_age: Any = pyrage  # it ships no types: this is where it enters


@dataclass(frozen=True)
class Facts:
    """What the plain stream was: its newlines, its xxh3_128 as hex, its length."""

    rows: int
    xxh3_128: str
    plain_bytes: int


class Sink(Protocol):
    """Takes every byte that it is given, or raises."""

    def write(self, data: bytes, /) -> int:
        """Take all of data; returns its length."""
        ...


def pack(pieces: Iterator[bytes], sink: Sink, recipients: Sequence[str], *, level: int = 2) -> Facts:
    """Compress and encrypt pieces into sink; returns the facts of what was plain.

    What pieces or sink raise is raised here, as itself; pieces are closed. When this returned, the sink, which is never
    closed, got everything.
    """
    opened_by = _recipients(recipients)
    count = _Count()
    with _ahead(_compressed(pieces, count, level)) as compressed:
        reader, writer = _Reader(compressed), _Gatherer(sink.write)
        try:
            _age.encrypt_io(reader, writer, opened_by)
        except _age.EncryptError as error:
            raise reader.failure or writer.failure or Garbled(f"age did not encrypt the stream: {error}") from None
        writer.flush()  # age flushes nothing: without this the last piece is lost without an error
    return count.facts()


def unpack(
    source: Iterator[bytes], write: Callable[[bytes], object], identities: Sequence[str], *, sha256: str | None = None
) -> Facts:
    """Decrypt and decompress source into write; returns the facts of what is plain.

    What write got is tentative until this returned: age and zstd release good bytes before they meet a bad one.
    Garbled: the stored bytes are damaged, cut short, or not those of sha256 (hex). Refused: no identity opens them.
    """
    keys = [_identity(text) for text in identities]
    stored = hashlib.sha256()
    reader, plain = _Reader(_hashed(source, stored.update)), _Decompressor(write)
    try:
        _age.decrypt_io(reader, plain, keys)
    except (_age.DecryptError, OSError) as error:
        raise reader.failure or plain.failure or _undecryptable(error, reader, stored.hexdigest, sha256) from None
    _demand_sha256(stored.hexdigest(), sha256)
    return plain.finish()


def process_pieces(process: subprocess.Popen[bytes], what: str) -> Generator[bytes]:
    """The output of process (started with bufsize=0 and stdout=PIPE) in pieces of 1 MiB; Refused unless it ends with 0.

    Its end of file says nothing: a killed process has a clean one. Left early, the process is killed.
    """
    output = process.stdout
    if output is None:
        raise Refused(f"nothing to read from {what}: it was started without a pipe for its output")
    try:
        yield from _coalesced(output.fileno())
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        output.close()
    if code:
        raise Refused(f"{what} ended with {_ending(code)}: what it wrote until then is not whole")


def new_identity() -> str:
    """A new age identity: the secret that opens what is packed for its recipient."""
    return str(_age.x25519.Identity.generate())


def recipient_of(identity: str) -> str:
    """The public recipient (age1...) that belongs to an identity."""
    return str(_identity(identity).to_public())


def new_signing_key() -> str:
    """A new private key to sign with: base64 of its 32 raw bytes."""
    return base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()


def public_of(private_key: str) -> str:
    """The key that verifies what private_key signed: base64 of its 32 raw bytes."""
    return base64.b64encode(_signing(private_key).public_key().public_bytes_raw()).decode()


def key_id(public_key: str) -> str:
    """The short name of a verifying key: the first 8 hex digits of the sha256 of its raw bytes."""
    return hashlib.sha256(_raw(public_key)).hexdigest()[:8]


def sign(private_key: str, data: bytes) -> bytes:
    """The signature (64 bytes, Ed25519) over data."""
    return _signing(private_key).sign(data)


def verify(keys: Sequence[str], data: bytes, signature: bytes) -> str:
    """The id of the key that signed data; Refused when none of keys did. Verify first, parse afterwards."""
    for key in keys:
        try:
            Ed25519PublicKey.from_public_bytes(_raw(key)).verify(signature, data)
        except InvalidSignature:
            continue
        return key_id(key)
    known = ", ".join(key_id(key) for key in keys) or "none"
    raise Refused(
        f"no trusted key signed these {len(data)} bytes (trusted: {known}): forged, changed, or a key is missing"
    )


class _Count:
    """Facts in the making."""

    def __init__(self) -> None:
        self._rows = self._bytes = 0
        self._hash = xxhash.xxh3_128()

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._rows += piece.count(b"\n")
        self._bytes += len(piece)

    def facts(self) -> Facts:
        return Facts(self._rows, self._hash.hexdigest(), self._bytes)


def _compressed(pieces: Iterator[bytes], count: _Count, level: int) -> Generator[bytes]:
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    frame = zstd.ZstdCompressor(options=options)
    try:
        for piece in pieces:
            count.add(piece)
            yield frame.compress(piece)
        yield frame.flush()
    finally:
        if isinstance(pieces, Generator):
            pieces.close()  # a reader that failed must not leave a process writing


@contextlib.contextmanager
def _ahead(pieces: Generator[bytes]) -> Generator[Iterator[bytes]]:
    """Let a thread of its own run up to four pieces ahead; what it raises is raised to the one who reads.

    However the reader leaves, the thread is let go: once `gone` is set and the queue was emptied, it can put one piece
    and its end without waiting, and looks at `gone` after each piece.
    """
    queue: Queue[bytes | BaseException | None] = Queue(_QUEUED_PIECES)
    gone = threading.Event()
    thread = threading.Thread(target=_produce, args=(pieces, queue, gone), name="producer", daemon=True)
    thread.start()
    try:
        yield _drawn(queue)
    finally:
        gone.set()
        with contextlib.suppress(Empty):
            while True:
                queue.get_nowait()
        thread.join(_STOP_WAIT_S)


def _produce(pieces: Generator[bytes], queue: "Queue[bytes | BaseException | None]", gone: threading.Event) -> None:
    end: BaseException | None = None
    try:
        for piece in pieces:
            if piece:
                queue.put(piece)
            if gone.is_set():
                break
        pieces.close()
    except BaseException as error:  # noqa: BLE001 (not swallowed: the reader raises it, as itself)
        end = error
    queue.put(end)


def _drawn(queue: "Queue[bytes | BaseException | None]") -> Iterator[bytes]:
    while (item := queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


class _Reader:
    """An iterator as the file that age reads. Age keeps only the text of what is raised, `failure` keeps it whole."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.failure: BaseException | None = None

    def read(self, size: int, /) -> bytes:
        try:
            while not self._rest:
                self._rest = memoryview(next(self._pieces))
        except StopIteration:
            return b""
        except BaseException as error:
            self.failure = error
            raise
        out, self._rest = self._rest[:size], self._rest[size:]
        return bytes(out)

    def skip_to_end(self) -> None:
        for _ in self._pieces:
            pass


class _Gatherer:
    """Gathers the small writes of age into pieces of 1 MiB, and keeps what the taker raises."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._held = bytearray()
        self.failure: BaseException | None = None

    def write(self, data: bytes, /) -> int:
        self._held += data
        if len(self._held) >= PIECE:
            self.flush()
        return len(data)

    def flush(self) -> None:
        held, self._held = bytes(self._held), bytearray()
        try:
            if held:
                self._take(held)
        except BaseException as error:
            self.failure = error
            raise


class _Decompressor:
    """The file that age writes zstd into. It demands one whole frame and nothing behind it, and keeps what fails.

    A block of 4 bytes can stand for 128 KiB of equal ones: however much they stand for, one piece comes out at once.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._frame = zstd.ZstdDecompressor()
        self._count = _Count()
        self._write = write
        self.failure: BaseException | None = None

    def write(self, data: bytes, /) -> int:
        try:
            for piece in self._decompressed(data):
                self._count.add(piece)
                self._write(piece)
        except BaseException as error:
            self.failure = error
            raise
        return len(data)

    def finish(self) -> Facts:
        if not self._frame.eof:
            raise Garbled("the compressed stream is not whole: it ends before its zstd frame does")
        return self._count.facts()

    def _decompressed(self, data: bytes) -> Iterator[bytes]:
        more = True
        while more and not self._frame.eof:
            try:
                piece = self._frame.decompress(data, PIECE)
            except zstd.ZstdError as error:
                raise Garbled(f"the compressed stream is damaged: {error}") from None
            if piece:
                yield piece
            data, more = b"", not self._frame.needs_input
        if data or self._frame.unused_data:
            raise Garbled("the compressed stream goes on behind the end of its zstd frame")


def _recipients(recipients: Sequence[str]) -> list[Any]:
    if not recipients:
        raise Refused("nothing can be encrypted without a recipient: name at least one age1... key")
    return [_recipient(text) for text in recipients]


def _recipient(text: str) -> Any:
    try:
        return _age.x25519.Recipient.from_str(text)
    except _age.RecipientError:
        raise Refused(f"{text[:8]!r}... is no age recipient: it must be the age1... key, 62 characters") from None


def _identity(text: str) -> Any:
    try:
        return _age.x25519.Identity.from_str(text)
    except _age.IdentityError:
        raise Refused("an identity given is no age identity: it must be an AGE-SECRET-KEY-1... line") from None


def _hashed(pieces: Iterator[bytes], update: Callable[[bytes], object]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece


def _undecryptable(error: Exception, reader: _Reader, digest: Callable[[], str], sha256: str | None) -> Exception:
    """Damage in age's header looks like a wrong key; where the sha256 is known, the rest is read to tell them apart."""
    if "No matching keys" not in str(error):
        return Garbled(f"the encrypted stream is damaged or cut short: {error}")
    if sha256 is not None:
        reader.skip_to_end()
        _demand_sha256(digest(), sha256)
    return Refused("no identity given opens this stream: it was encrypted for other recipients")


def _demand_sha256(found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise Garbled(f"the stored bytes are not those that were written: sha256 {found}, wanted {wanted}")


def _coalesced(descriptor: int) -> Iterator[bytes]:
    """Pieces of 1 MiB but the last: psql writes small ones, and each step in Python costs per call, not per byte."""
    with contextlib.suppress(OSError):  # a user's pipes are small once he has many; then it is only slower
        fcntl.fcntl(descriptor, _SET_PIPE_SIZE, PIECE)
    piece = memoryview(bytearray(PIECE))
    while size := _filled(descriptor, piece):
        yield bytes(piece[:size])


def _filled(descriptor: int, piece: memoryview) -> int:
    size = 0
    while size < len(piece) and (got := os.readv(descriptor, [piece[size:]])):
        size += got
    return size


def _ending(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    names = {int(number): number.name for number in signal.Signals}
    return names.get(-code, f"signal {-code}")


def _signing(private_key: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_raw(private_key))


def _raw(key: str) -> bytes:
    try:
        raw = base64.b64decode(key, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise Refused("a key to sign or verify with must be the base64 of 32 raw bytes (44 characters)")
    return raw
