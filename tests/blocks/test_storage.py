"""One contract for every store of backups, and what only a network or a disk can do to it."""

import contextlib
import hashlib
import http.server
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.httpsession import URLLib3Session

from blocks.errors import BlockError, Garbled, Missing, Refused, Unreachable
from blocks.storage.objects import DirectoryPlace, Objects, Part, Place, S3Place, place_from_json
from tests.parts.store import READER, WRITER, opened_by

MIB = 1 << 20
PART = 5 * MIB  # the least that S3 takes for a part but the last
NOISE = random.Random(7).randbytes(3 * PART + 1)  # noqa: S311
SECRET = "test-canary-secret"


@pytest.fixture(params=["s3", "directory"])
def anywhere(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue("place" if request.param == "s3" else "folder_place")


@pytest.fixture
def objects(anywhere: Place) -> Objects:
    return anywhere.open()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def keys(objects: Objects, prefix: str = "") -> list[str]:
    return [entry.key for entry in objects.list(prefix)]


def left_behind(objects: Objects) -> list[str]:
    return [*keys(objects), *(unfinished.key for unfinished in objects.uploads())]


# The contract


@pytest.mark.parametrize("data", [b"", b"x", NOISE[:PART]])
def test_what_is_put_is_read_again(objects: Objects, data: bytes) -> None:
    stored = objects.put("a/b.json", data)
    assert (stored.key, stored.bytes, stored.sha256) == ("a/b.json", len(data), sha256(data))
    assert stored.parts == (Part(len(data), sha256(data)),)
    assert objects.get("a/b.json") == data
    assert objects.head("a/b.json").bytes == len(data)


def test_a_put_replaces_what_was_there(objects: Objects) -> None:
    objects.put("a", b"old")
    objects.put("a", b"new")
    assert objects.get("a") == b"new"


def test_what_is_created_once_is_never_changed(objects: Objects) -> None:
    objects.put("manifest.json", b"first", only_if_absent=True)
    with pytest.raises(Refused, match=r"manifest\.json.*exists already"):
        objects.put("manifest.json", b"second", only_if_absent=True)
    assert objects.get("manifest.json") == b"first"
    assert left_behind(objects) == ["manifest.json"]


def test_of_sixteen_who_create_one_key_one_wins(objects: Objects) -> None:
    barrier = threading.Barrier(16)

    def create(number: int) -> int | None:
        barrier.wait()
        with contextlib.suppress(Refused):
            objects.put("a", b"%d" % number, only_if_absent=True)
            return number
        return None

    with ThreadPoolExecutor(16) as threads:
        won = [number for number in threads.map(create, range(16)) if number is not None]
    assert len(won) == 1
    assert objects.get("a") == b"%d" % won[0]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 1])
def test_a_stream_is_stored_whole_in_equal_parts(objects: Objects, size: int) -> None:
    with objects.upload("a/stream", part_bytes=PART) as upload:
        for at in range(0, size, 2 * MIB):
            upload.write(NOISE[at : min(at + 2 * MIB, size)])
    whole = NOISE[:size]
    wanted = [whole[at : at + PART] for at in range(0, size, PART)] or [b""]
    assert upload.stored.parts == tuple(Part(len(part), sha256(part)) for part in wanted)
    assert (upload.stored.bytes, upload.stored.sha256) == (size, sha256(whole))
    assert objects.get("a/stream") == whole
    assert objects.head("a/stream", upload.stored.parts).parts == upload.stored.parts
    assert left_behind(objects) == ["a/stream"]


@pytest.mark.parametrize("size", [10, PART + 10])
def test_other_bytes_than_were_written_are_garbled_by_a_look(objects: Objects, size: int) -> None:
    with objects.upload("a", part_bytes=PART) as upload:
        upload.write(NOISE[:size])
    *first, last = upload.stored.parts
    for wrong in (replace(last, sha256=sha256(b"other")), replace(last, bytes=last.bytes - 1)):
        with pytest.raises(Garbled, match="not what was written"):
            objects.head("a", (*first, wrong))


class DumpError(Exception):
    pass


@pytest.mark.parametrize("size", [0, 10, 2 * PART + 10])
def test_an_exception_inside_an_upload_leaves_nothing(objects: Objects, size: int) -> None:
    upload = objects.upload("a/stream", part_bytes=PART)

    def dump() -> None:
        with upload:
            upload.write(NOISE[:size])
            raise DumpError

    with pytest.raises(DumpError):
        dump()
    assert left_behind(objects) == []
    with pytest.raises(Refused, match="not finished"):
        _ = upload.stored


def test_an_unfinished_upload_is_listed_and_can_be_aborted_twice(objects: Objects) -> None:
    upload = objects.upload("a/b/stream", part_bytes=PART)
    upload.write(NOISE[: PART + 1])
    [unfinished] = objects.uploads("a/b")
    assert unfinished.key == "a/b/stream"
    assert abs(objects.now() - unfinished.started) < timedelta(minutes=1)
    assert keys(objects) == list(objects.uploads("c")) == []
    objects.abort(unfinished)
    objects.abort(unfinished)
    assert left_behind(objects) == []
    with pytest.raises(Missing), upload:
        pass
    assert left_behind(objects) == []


def test_ranges_are_read(objects: Objects) -> None:
    objects.put("a", NOISE[: 3 * MIB])

    def read(start: int, length: int | None) -> bytes:
        return b"".join(objects.read("a", start=start, length=length))

    for start, length in ((0, 10), (5, 0), (MIB - 1, 2), (3 * MIB - 1, None), (3 * MIB - 1, 5), (3 * MIB, None)):
        assert read(start, length) == NOISE[: 3 * MIB][start : None if length is None else start + length]
    assert all(len(piece) <= MIB for piece in objects.read("a"))


def test_what_is_absent_is_missing(objects: Objects) -> None:
    asked: list[Callable[[], Any]] = [
        lambda: objects.get("a/b"),
        lambda: list(objects.read("a/b", start=3)),
        lambda: objects.head("a/b"),
    ]
    for ask in asked:
        with pytest.raises(Missing, match="a/b"):
            ask()
    assert keys(objects) == keys(objects, "a/") == list(objects.uploads()) == []


def test_more_keys_than_a_page_are_listed_in_order_and_deleted(objects: Objects) -> None:
    wanted = sorted(f"a/{number:04}" for number in range(1005))

    def put(key: str) -> None:
        objects.put(key, b".")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put, wanted))
    objects.put("ab", b".")
    assert keys(objects, "a/") == wanted
    assert keys(objects) == [*wanted, "ab"]
    assert keys(objects, "a/100") == wanted[1000:]
    objects.delete([*wanted, "a/absent"])
    assert keys(objects) == ["ab"]


def test_keys_are_taken_as_they_are(objects: Objects) -> None:
    wanted = sorted(["a b", "a%20b", "a+b", "á/ö", "표.copy", "x.y~", ".z", "q'\"&<>"])
    for key in wanted:
        objects.put(key, key.encode())
    assert keys(objects) == wanted
    assert [objects.get(key).decode() for key in wanted] == wanted
    objects.delete(wanted)
    assert keys(objects) == []


@pytest.mark.parametrize("key", ["", "/etc/passwd"])
def test_what_is_no_key_is_refused(objects: Objects, key: str) -> None:
    with pytest.raises(Refused, match="is no key"):
        objects.put(key, b"x")


def test_a_listing_says_size_and_age(objects: Objects) -> None:
    objects.put("a", b"12345", metadata={"backup-id": "1"}, storage_class="STANDARD")
    [entry] = objects.list()
    assert entry.bytes == 5
    assert abs(objects.now() - entry.modified) < timedelta(minutes=1)


def test_a_place_goes_through_json_and_hides_its_secret(anywhere: Place) -> None:
    again = place_from_json(json.loads(json.dumps(anywhere.to_json())))
    assert again == anywhere
    assert SECRET not in repr(anywhere)
    again.open().put("a", b"x")
    assert anywhere.open().get("a") == b"x"


def test_two_prefixes_do_not_see_each_other(anywhere: Place) -> None:
    other = replace(anywhere, prefix=f"{anywhere.prefix}-other").open()
    anywhere.open().put("a", b"x")
    assert left_behind(other) == []


def test_a_place_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Refused, match="s3 or directory"):
        place_from_json({"kind": "tape"})


def test_workers_load_stores_and_streams_without_prefect() -> None:
    loaded = "import blocks.stream, blocks.storage.s3, blocks.storage.directory, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True).stdout
    assert "prefect" not in modules


# What only a network does


def on(objects: Objects, event: str, handler: Callable[..., Any]) -> None:
    """Harm what boto3 sends or gets, at its own hooks."""
    client: Any = vars(objects)["_s3"]
    client.meta.events.register(event, handler)


def test_a_slow_store_holds_up_the_writer_after_three_parts_and_the_one_being_filled(place: S3Place) -> None:
    objects, release, sent = place.open(), threading.Event(), threading.Semaphore(0)

    def hold(**_: Any) -> None:
        sent.release()
        release.wait(30)

    on(objects, "before-send.s3.UploadPart", hold)
    taken = 0

    def write_all() -> None:
        nonlocal taken
        with objects.upload("a", part_bytes=PART) as upload:
            for _ in range(40):
                taken += upload.write(NOISE[:MIB])

    writer = threading.Thread(target=write_all)
    writer.start()
    assert all(sent.acquire(timeout=20) for _ in range(3))
    assert not sent.acquire(timeout=0.3)
    assert taken <= 4 * PART
    release.set()
    writer.join(30)
    assert objects.head("a").bytes == taken == 40 * MIB


def test_metadata_and_encryption_reach_the_store(place: S3Place) -> None:
    objects = replace(place, sse="AES256").open()
    with objects.upload("a", part_bytes=PART, metadata={"backup-id": "7"}) as upload:
        upload.write(NOISE[: PART + 1])
    objects.put("b", b"x", metadata={"backup-id": "7"})
    client: Any = vars(objects)["_s3"]
    for key in ("a", "b"):
        answer = client.head_object(Bucket=place.bucket, Key=f"{place.prefix}/{key}")
        assert (answer["Metadata"], answer["ServerSideEncryption"]) == ({"backup-id": "7"}, "AES256")


def damage(times: int) -> Callable[..., None]:
    left = iter(range(times))

    def flip(request: Any, **_: Any) -> None:
        if request.body and next(left, None) is not None:
            body = bytearray(request.body.read() if hasattr(request.body, "read") else request.body)
            body[0] ^= 1
            request.body = bytes(body)

    return flip


@pytest.mark.parametrize("size", [10, PART + 10])
def test_what_is_damaged_on_the_way_is_sent_once_more(place: S3Place, size: int) -> None:
    objects = place.open()
    for operation in ("PutObject", "UploadPart"):
        on(objects, f"before-send.s3.{operation}", damage(1))
    with objects.upload("a", part_bytes=PART) as upload:
        upload.write(NOISE[:size])
    assert objects.get("a") == NOISE[:size]


@pytest.mark.parametrize("size", [10, PART + 10])
def test_what_is_damaged_on_the_way_again_is_garbled_and_leaves_nothing(place: S3Place, size: int) -> None:
    objects = place.open()
    for operation in ("PutObject", "UploadPart"):
        on(objects, f"before-send.s3.{operation}", damage(9))
    with pytest.raises(Garbled), objects.upload("a", part_bytes=PART) as upload:
        upload.write(NOISE[:size])
    assert left_behind(objects) == []


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart"])
def test_a_store_that_answers_with_another_checksum_is_not_believed(place: S3Place, operation: str) -> None:
    objects = place.open()

    def lie(parsed: dict[str, Any], **_: Any) -> None:
        parsed["ChecksumSHA256"] = "b3RoZXI="

    on(objects, f"after-call.s3.{operation}", lie)
    with pytest.raises(Garbled, match="another sha256"), objects.upload("a", part_bytes=PART) as upload:
        upload.write(NOISE[: 10 if operation == "PutObject" else PART + 10])
    assert list(objects.uploads()) == []


class Wire:
    """A TCP way to the store whose first connection breaks once that many bytes of its answers went through."""

    def __init__(self, endpoint: str, breaks_after_bytes: int) -> None:
        url = urlsplit(endpoint)
        self._target = (url.hostname or "", url.port or 0)
        self._left: int | None = breaks_after_bytes
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()
        for end in self._ends:
            _shut(end)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                left, self._left = self._left, None
                self.connections += 1
                threading.Thread(target=self._pump, args=(near, far, None), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, left), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if left is not None and not data.startswith(b"HTTP/1.1 100"):
                    if len(data) > left:
                        break
                    left -= len(data)
                sink.sendall(data)
        for end in (source, sink):
            _shut(end)  # wakes the other direction


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wired(place: S3Place) -> Iterator[Callable[[int], tuple[Wire, Objects]]]:
    with contextlib.ExitStack() as wires:

        def lay(breaks_after_bytes: int) -> tuple[Wire, Objects]:
            wire = wires.enter_context(contextlib.closing(Wire(place.endpoint or "", breaks_after_bytes)))
            return wire, replace(place, endpoint=wire.endpoint).open()

        yield lay


def test_a_create_whose_answer_was_lost_is_refused_and_can_be_read_back(
    wired: Callable[[int], tuple[Wire, Objects]],
) -> None:
    wire, objects = wired(0)
    with pytest.raises(Refused, match="exists already"):
        objects.put("manifest.json", b"ours", only_if_absent=True)
    assert wire.connections > 1
    assert objects.get("manifest.json") == b"ours"


class NoSuchUpload:
    def stream(self) -> Iterator[bytes]:
        yield b"<Error><Code>NoSuchUpload</Code></Error>"


@pytest.mark.parametrize("came_through", [True, False])
def test_an_upload_is_stored_when_only_the_answer_to_its_completion_was_lost(
    place: S3Place, came_through: bool
) -> None:
    objects = place.open()

    def answer_as_the_second_time(request: Any, **_: Any) -> AWSResponse:
        if came_through:
            assert URLLib3Session().send(request).status_code == 200
        return AWSResponse(request.url, 404, HTTPHeaders(), NoSuchUpload())

    on(objects, "before-send.s3.CompleteMultipartUpload", answer_as_the_second_time)
    upload = objects.upload("a", part_bytes=PART)
    expected = contextlib.nullcontext() if came_through else pytest.raises(Missing)
    with expected, upload:
        upload.write(NOISE[: PART + 1])
    assert left_behind(objects) == ["a"] * came_through
    if came_through:
        assert objects.head("a", upload.stored.parts).bytes == PART + 1


def test_a_read_that_breaks_off_goes_on_where_it_broke(
    place: S3Place, wired: Callable[[int], tuple[Wire, Objects]]
) -> None:
    place.open().put("a", NOISE[: 6 * MIB])
    wire, objects = wired(4 * MIB)
    assert b"".join(objects.read("a", start=5)) == NOISE[5 : 6 * MIB]
    assert wire.connections == 2


def everything(objects: Objects) -> dict[str, Callable[[], Any]]:
    return {
        "put": lambda: objects.put("a", b"x"),
        "get": lambda: objects.get("a"),
        "head": lambda: objects.head("a"),
        "list": lambda: keys(objects),
        "delete": lambda: objects.delete(["a"]),
        "uploads": lambda: list(objects.uploads()),
        "now": objects.now,
    }


def test_a_store_that_accepts_and_stays_silent_is_unreachable_within_its_time_out(place: S3Place) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        objects = replace(place, endpoint=endpoint, read_timeout_s=0.2, attempts=1).open()
        for name, ask in everything(objects).items():
            begun = time.monotonic()
            with pytest.raises(Unreachable, match="does not answer"):
                ask()
            assert time.monotonic() - begun < 5, name


def test_a_port_that_nobody_listens_on_is_unreachable(place: S3Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(Unreachable, match="does not answer"):
        replace(place, endpoint=endpoint, attempts=1).open().put("a", b"x")


class Answering(http.server.BaseHTTPRequestHandler):
    status, code = 500, "InternalError"

    def answer(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>canary of a body</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = answer  # noqa: N815 (the library looks for this name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InternalError", Unreachable),
        (503, "SlowDown", Unreachable),
        (429, "TooManyRequests", Unreachable),
        (400, "RequestTimeout", Unreachable),
        (409, "ConditionalRequestConflict", Unreachable),
        (403, "AccessDenied", Refused),
        (403, "RequestTimeTooSkewed", Refused),
        (507, "XMinioStorageFull", Refused),
        (400, "<script>", Refused),
        (404, "NoSuchBucket", Missing),
    ],
)
def test_an_error_says_whether_asking_again_helps_and_never_what_the_store_wrote(
    place: S3Place, status: int, code: str, kind: type[BlockError]
) -> None:
    handler = type("This", (Answering,), {"status": status, "code": code})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(kind) as error:
            replace(place, endpoint=endpoint, attempts=1).open().put("a", b"x")
        server.shutdown()
    assert type(error.value) is kind
    assert not [word for word in ("canary", "127.0.0.1", "<", SECRET) if word in str(error.value)]


def test_a_missing_right_is_named(place: S3Place) -> None:
    reader, writer = opened_by(place, READER).open(), opened_by(place, WRITER).open()
    place.open().put("a", b"x")
    assert reader.get("a") == b"x"
    asked: list[tuple[str, Callable[[], Any]]] = [
        ("s3:PutObject", lambda: reader.put("a", b"y")),
        ("s3:DeleteObject", lambda: reader.delete(["a", "b"])),
        ("s3:GetObject", lambda: writer.get("a")),
        ("s3:ListBucket", lambda: keys(writer)),
    ]
    for right, ask in asked:
        with pytest.raises(Refused, match=right):
            ask()
    assert place.open().get("a") == b"x"


def test_a_wrong_secret_is_refused_without_being_shown(place: S3Place) -> None:
    with pytest.raises(Refused, match="does not know this key") as error:
        replace(place, secret_key="wrong-canary").open().put("a", b"x")
    assert "canary" not in str(error.value)


def test_settings_that_boto3_does_not_take_are_refused(place: S3Place) -> None:
    for wrong in (replace(place, endpoint="no address"), replace(place, profile="nobody-has-this")):
        with pytest.raises(Refused):
            wrong.open()


# What only a disk does


@pytest.fixture
def folder(folder_place: DirectoryPlace) -> Path:
    return Path(folder_place.folder) / folder_place.prefix


@pytest.mark.parametrize("key", ["../a", "a/../b", "a//b", "./a", "a/", ".a.0123~", "a\0"])
def test_a_key_cannot_leave_the_folder_nor_look_like_an_unfinished_upload(
    folder_place: DirectoryPlace, key: str
) -> None:
    objects = folder_place.open()
    for ask in everything_of(objects, key):
        with pytest.raises(Refused, match="is no key"):
            ask()


def everything_of(objects: Objects, key: str) -> list[Callable[[], Any]]:
    return [lambda: objects.put(key, b"x"), lambda: objects.get(key), lambda: objects.delete([key])]


@pytest.mark.parametrize("prefix", ["../", "/", "a/../../"])
def test_a_listing_cannot_leave_the_folder(folder_place: DirectoryPlace, prefix: str) -> None:
    with pytest.raises(Refused, match="no prefix"):
        keys(folder_place.open(), prefix)


def test_only_its_own_unfinished_uploads_can_be_aborted(folder_place: DirectoryPlace, folder: Path) -> None:
    objects = folder_place.open()
    upload = objects.upload("a")
    [unfinished] = objects.uploads()
    objects.put("precious", b"x")
    for wrong in ("precious", "../.a.0123~"):
        with pytest.raises(Refused, match="no unfinished upload"):
            objects.abort(replace(unfinished, id=wrong))
    upload.abort()
    assert [path.name for path in folder.iterdir()] == ["precious"]


def test_deleting_a_backup_removes_the_folders_that_it_leaves_empty(folder_place: DirectoryPlace, folder: Path) -> None:
    objects = folder_place.open()
    for key in ("b/1/data/x", "b/1/manifest", "b/2/manifest"):
        objects.put(key, b"x")
    objects.delete(["b/1/manifest", "b/1/data/x"])
    assert sorted(path.name for path in (folder / "b").iterdir()) == ["2"]


def test_a_writer_that_was_killed_leaves_an_unfinished_upload_and_no_object(folder_place: DirectoryPlace) -> None:
    code = (
        "import os, signal, sys; from blocks.storage.objects import DirectoryPlace\n"
        "with DirectoryPlace(*sys.argv[1:]).open().upload('a/b', part_bytes=10) as upload:\n"
        "    upload.write(b'x' * 25); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, folder_place.folder, folder_place.prefix], check=False)
    objects = folder_place.open()
    assert keys(objects) == []
    [unfinished] = objects.uploads()
    assert unfinished.key == "a/b"
    objects.abort(unfinished)
    assert left_behind(objects) == []


def test_a_file_where_a_folder_must_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(Refused, match="a file is where a folder must be"):
        DirectoryPlace(str(tmp_path / "store")).open().put("a", b"x")


FILL = """
import sys
from pathlib import Path
from blocks.errors import Refused
from blocks.storage.objects import DirectoryPlace
objects = DirectoryPlace(sys.argv[1]).open()
try:
    with objects.upload("a", part_bytes=1 << 16) as upload:
        for _ in range(64):
            upload.write(bytes(1 << 16))
except Refused as error:
    print(error, [*objects.list(), *objects.uploads()])
"""


def test_a_full_disk_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    mounted = f'mount -t tmpfs -o size=1m none "{tmp_path}" && exec "$0" "$@"'
    command = ["unshare", "-rm", "sh", "-c", mounted, sys.executable, "-c", FILL, str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no user namespace to mount a small disk in")
    said = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout
    assert said.strip() == "could not write a: the disk is full []"


def test_a_missing_right_to_the_folder_is_refused() -> None:
    with pytest.raises(Refused, match=r"this user lacks the right|read-only"):
        DirectoryPlace("/sys").open().put("a/b", b"x")


def test_the_free_space_is_known_before_the_folder_exists(folder_place: DirectoryPlace) -> None:
    assert (folder_place.open().free_bytes() or 0) > 0
