"""Bytes in flight survive whole, or somebody is told."""

import base64
import hashlib
import io
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyrage
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks import stream
from blocks.errors import Garbled, Refused
from blocks.storage.objects import DirectoryPlace

age: Any = pyrage  # it ships no types
TEAM = stream.new_identity()
ESCROW = stream.new_identity()
STRANGER = stream.new_identity()
SIGNING = stream.new_signing_key()
CHUNK = 64 << 10  # age's
EDGES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, stream.PIECE, stream.PIECE + 1]


class Box(bytearray):
    def write(self, data: bytes, /) -> int:
        self.extend(data)
        return len(data)


def noise(size: int) -> bytes:
    """Bytes that zstd cannot make smaller, so that edges of the plain stream are edges of the stored one."""
    return random.Random(size).randbytes(size)  # noqa: S311


def packed(plain: bytes, identities: Sequence[str] = (TEAM,)) -> bytes:
    box = Box()
    stream.pack(iter([plain]), box, [stream.recipient_of(identity) for identity in identities])
    return bytes(box)


def unpacked(stored: bytes, identity: str = TEAM, sha256: str | None = None) -> bytes:
    box = Box()
    stream.unpack(iter([stored]), box.write, [identity], sha256=sha256)
    return bytes(box)


@pytest.mark.parametrize("size", EDGES)
def test_what_is_packed_comes_back(size: int) -> None:
    assert unpacked(packed(noise(size))) == noise(size)


@pytest.mark.parametrize("overhead", range(-30, 3))
def test_a_compressed_stream_that_ends_near_an_edge_of_age_comes_back(overhead: int) -> None:
    plain = noise(CHUNK + overhead)
    assert unpacked(packed(plain)) == plain


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_the_facts_are_the_same_on_both_ways_however_the_stream_was_cut(pieces: list[bytes]) -> None:
    box, plain = Box(), b"".join(pieces)
    facts = stream.pack(iter(pieces), box, [stream.recipient_of(TEAM)])
    assert facts == stream.Facts(plain.count(b"\n"), xxhash.xxh3_128_hexdigest(plain), len(plain))
    halves = iter([bytes(box[:100]), b"", bytes(box[100:])])
    assert stream.unpack(halves, Box().write, [TEAM]) == facts


def test_each_of_several_recipients_opens_it() -> None:
    stored = packed(b"hello\n", [TEAM, ESCROW])
    assert unpacked(stored, TEAM) == unpacked(stored, ESCROW) == b"hello\n"


def test_a_stranger_is_refused() -> None:
    with pytest.raises(Refused, match="no identity given opens"):
        unpacked(packed(b"hello"), STRANGER)


def test_nothing_is_encrypted_to_nobody() -> None:
    with pytest.raises(Refused, match="at least one age1"):
        stream.pack(iter([b"x"]), Box(), [])


@pytest.mark.parametrize("wrong", ["", "age1nonsense", TEAM], ids=["nothing", "nonsense", "an identity"])
def test_a_wrong_recipient_is_refused_without_being_shown(wrong: str) -> None:
    with pytest.raises(Refused) as error:
        stream.pack(iter([b"x"]), Box(), [wrong])
    assert TEAM not in str(error.value)


def test_a_wrong_identity_is_refused_without_being_shown() -> None:
    with pytest.raises(Refused) as error:
        unpacked(packed(b"x"), TEAM[:-1])
    assert TEAM[:-1] not in str(error.value)


def test_a_stream_cut_at_any_byte_is_garbled() -> None:
    stored = packed(noise(3 * CHUNK))
    interesting = {0, 1, 20, 150, 230, len(stored) - 1, *range(16, len(stored), 7919)}
    header = len(stored) - len(noise(3 * CHUNK))
    interesting |= {header + n * (CHUNK + 16) + d for n in range(3) for d in (-1, 0, 1)}
    for at in sorted(interesting):
        with pytest.raises(Garbled):
            unpacked(stored[:at])


def test_a_stream_with_a_byte_behind_its_end_is_garbled() -> None:
    with pytest.raises(Garbled):
        unpacked(packed(b"hello") + b"x")


def test_a_flipped_bit_in_the_body_is_garbled() -> None:
    stored = bytearray(packed(noise(3 * CHUNK)))
    stored[len(stored) // 2] ^= 1
    with pytest.raises(Garbled):
        unpacked(bytes(stored))


def test_a_flipped_bit_in_the_header_is_told_from_a_wrong_key_by_the_sha256() -> None:
    stored = packed(b"hello")
    whole = hashlib.sha256(stored).hexdigest()
    at = stored.index(b"X25519") + 60
    broken = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
    with pytest.raises(Garbled):
        unpacked(broken, sha256=whole)
    with pytest.raises(Refused):
        unpacked(stored, STRANGER, sha256=whole)


def test_another_whole_stream_than_the_one_wanted_is_garbled() -> None:
    with pytest.raises(Garbled, match="not those that were written"):
        unpacked(packed(b"hello"), sha256=hashlib.sha256(packed(b"other")).hexdigest())


def encrypted(plain: bytes) -> bytes:
    """Only age, no zstd: what is inside need not be whole."""
    box = Box()
    age.encrypt_io(io.BytesIO(plain), box, [age.x25519.Recipient.from_str(stream.recipient_of(TEAM))])
    return bytes(box)


def test_a_zstd_frame_without_its_last_byte_is_garbled_though_age_is_whole() -> None:
    frame = stream.zstd.compress(b"hello" * 1000, options={stream.zstd.CompressionParameter.checksum_flag: 1})
    assert unpacked(encrypted(frame)) == b"hello" * 1000
    for damaged in (frame[:-1], frame[:-4], b"", frame + b"x", frame + frame, b"plain text"):
        with pytest.raises(Garbled):
            unpacked(encrypted(damaged))


class ProducerError(Exception):
    pass


def failing(after: int) -> Iterator[bytes]:
    for _ in range(after):
        yield noise(stream.PIECE)
    raise ProducerError


@pytest.mark.parametrize("after", [0, 1, 12])
def test_a_failed_producer_raises_itself_and_its_upload_is_aborted(after: int, tmp_path: Path) -> None:
    objects = DirectoryPlace(str(tmp_path)).open()
    upload = objects.upload("dump", part_bytes=1 << 20)
    with pytest.raises(ProducerError), upload:
        stream.pack(failing(after), upload, [stream.recipient_of(TEAM)])
    assert list(tmp_path.iterdir()) == []


class FullError(Exception):
    pass


class Full:
    def write(self, data: bytes, /) -> int:
        raise FullError(len(data))


def test_a_failed_sink_raises_itself_and_ends_the_process_behind_the_pieces() -> None:
    with subprocess.Popen(["cat", "/dev/urandom"], stdout=subprocess.PIPE, bufsize=0) as endless:
        with pytest.raises(FullError):
            stream.pack(stream.process_pieces(endless, "cat"), Full(), [stream.recipient_of(TEAM)])
        assert endless.poll() is not None
    assert not [thread for thread in threading.enumerate() if thread.name == "producer"]


def test_a_failed_writer_of_the_way_back_raises_itself() -> None:
    with pytest.raises(FullError):
        stream.unpack(iter([packed(b"hello" * 1000)]), Full().write, [TEAM])


def test_a_failed_source_of_the_way_back_raises_itself() -> None:
    with pytest.raises(ProducerError):
        stream.unpack(failing(0), Box().write, [TEAM])


def process(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, bufsize=0)


def test_small_writes_of_a_process_arrive_in_whole_pieces() -> None:
    pieces = list(stream.process_pieces(process("for _ in range(300_000): print('0123456789', flush=False)"), "it"))
    assert [len(piece) for piece in pieces] == [stream.PIECE] * 3 + [3_300_000 - 3 * stream.PIECE]


def test_a_process_that_ends_with_an_error_is_refused_after_its_clean_end_of_file() -> None:
    with pytest.raises(Refused, match="the dump ended with exit code 3"):
        list(stream.process_pieces(process("print('half'); raise SystemExit(3)"), "the dump"))


def test_a_killed_process_is_refused_after_its_clean_end_of_file() -> None:
    kill = "import os, signal, sys; print('half', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    box = Box()
    with pytest.raises(Refused, match="the dump ended with SIGKILL"):
        stream.pack(stream.process_pieces(process(kill), "the dump"), box, [stream.recipient_of(TEAM)])


def test_pieces_left_early_end_their_process() -> None:
    endless = process("while True: print('x' * 1000)")
    pieces = stream.process_pieces(endless, "it")
    next(pieces)
    pieces.close()
    assert endless.poll() is not None


@pytest.mark.skipif(not (shutil.which("age") and shutil.which("zstd")), reason="no age and zstd of the system")
def test_stock_tools_open_what_is_packed(tmp_path: Path) -> None:
    plain = noise(stream.PIECE + 5)
    identity, stored = tmp_path / "identity.txt", tmp_path / "stored"
    identity.write_text(f"{TEAM}\n")
    stored.write_bytes(packed(plain))
    frame = subprocess.run(["age", "-d", "-i", identity, stored], check=True, capture_output=True).stdout
    assert subprocess.run(["zstd", "-dc"], input=frame, check=True, capture_output=True).stdout == plain


@pytest.mark.skipif(not (shutil.which("age") and shutil.which("zstd")), reason="no age and zstd of the system")
def test_what_stock_tools_pack_is_opened() -> None:
    frame = subprocess.run(["zstd", "-c"], input=b"hello", check=True, capture_output=True).stdout
    age = ["age", "-r", stream.recipient_of(TEAM)]
    assert unpacked(subprocess.run(age, input=frame, check=True, capture_output=True).stdout) == b"hello"


class Counted:
    total = 0

    def write(self, data: bytes, /) -> int:
        self.total += len(data)
        return len(data)


def test_memory_stays_flat_however_long_the_stream_is() -> None:
    piece, sink = noise(stream.PIECE), Counted()
    tracemalloc.start()
    try:
        facts = stream.pack((piece for _ in range(200)), sink, [stream.recipient_of(TEAM)])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert facts.plain_bytes == 200 << 20
    assert sink.total > 200 << 20
    assert peak_bytes < 20 << 20


def test_a_small_stream_that_unpacks_to_a_huge_one_stays_flat_too() -> None:
    box, sink = Box(), Counted()
    stream.pack((b"\0" * stream.PIECE for _ in range(200)), box, [stream.recipient_of(TEAM)])
    tracemalloc.start()
    try:
        stream.unpack(iter([bytes(box)]), sink.write, [TEAM])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sink.total == 200 << 20
    assert peak_bytes < 20 << 20


def test_a_signature_names_the_key_that_made_it() -> None:
    public = stream.public_of(SIGNING)
    other = stream.public_of(stream.new_signing_key())
    assert stream.verify([other, public], b"data", stream.sign(SIGNING, b"data")) == stream.key_id(public)


def test_changed_bytes_or_an_unknown_key_are_refused() -> None:
    signature, public = stream.sign(SIGNING, b"data"), stream.public_of(SIGNING)
    for keys, data, signed in (([public], b"Data", signature), ([], b"data", signature), ([public], b"data", b"")):
        with pytest.raises(Refused, match="no trusted key signed"):
            stream.verify(keys, data, signed)


def test_a_key_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(Refused) as error:
        stream.sign("canary", b"data")
    assert "canary" not in str(error.value)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl of the system")
def test_openssl_verifies_what_is_signed(tmp_path: Path) -> None:
    raw = base64.b64decode(stream.public_of(SIGNING))
    (tmp_path / "verify.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + raw)
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "data.sig").write_bytes(stream.sign(SIGNING, b"data"))
    verify = "openssl pkeyutl -verify -pubin -keyform DER -inkey verify.der -rawin -in data -sigfile data.sig"
    subprocess.run(verify.split(), cwd=tmp_path, check=True, capture_output=True)
