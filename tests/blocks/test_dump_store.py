"""A store that refuses, hangs or breaks off before or amid an upload: the dump fails with one sentence, or tries again.

What such a store does not free, it lists: `prune` sweeps it.
"""

import contextlib
import os
import re
import socket
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import BlockError, Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.dump import dump
from blocks.postgres.snapshot import hold
from blocks.storage.objects import S3Place
from tests.blocks.trip import PREFIX, RECIPIENTS, client, folder, run, taken
from tests.parts.porter import Porter, Then, porter
from tests.parts.processes import children, eventually
from tests.parts.store import NOISE


def test_a_store_that_refuses_fails_the_dump(database: Address, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file is in the way")
    before = set(children(os.getpid()))
    with pytest.raises(Refused, match="a file is where a folder must be"):
        taken(database, folder(tmp_path))
    eventually(lambda: set(children(os.getpid())) <= before)


def test_a_store_that_hangs_is_tried_again_and_then_given_up(database: Address) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = S3Place(
            bucket="b", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", region="us-east-1", access_key="a",
            secret_key="s", connect_timeout_s=0.3, read_timeout_s=0.3, attempts=1,
        )  # fmt: skip
        before = set(children(os.getpid()))
        with pytest.raises(Unreachable):
            taken(database, place)
        eventually(lambda: set(children(os.getpid())) <= before)


def cut_short(address: Address, place: S3Place, porter: Porter) -> BlockError:
    """How a dump of one table ends, of whose upload the porter let in two parts."""
    run(address, NOISE)
    seen_by_porter = replace(place, endpoint=porter.endpoint, read_timeout_s=2, attempts=1)
    before = set(children(os.getpid()))
    with pytest.raises(BlockError) as ended, hold(address, application_name="the dump") as held:
        dump(held, seen_by_porter, PREFIX, RECIPIENTS, tools=client(address), workers=1)
    assert porter.let_in == 2
    eventually(lambda: set(children(os.getpid())) <= before)
    stored = {entry.key.removeprefix(PREFIX) for entry in place.open().list()}
    assert stored == {"schema.pgc.zst.age", "globals.sql.zst.age", "catalogue.txt.zst.age"}
    assert not [word for word in ("canary", "127.0.0.1", "\n") if word in str(ended.value)]
    return ended.value


def unfinished(place: S3Place) -> list[str]:
    return [each.key.removeprefix(PREFIX) for each in place.open().uploads()]


@pytest.mark.parametrize(
    ("then", "left"), [("refuses parts", []), ("refuses all", ["data/00000.public.noise.copy.zst.age"])]
)
def test_a_store_that_refuses_amid_an_upload_fails_the_dump_and_what_it_does_not_free_is_listed(
    database: Address, place: S3Place, then: Then, left: list[str]
) -> None:
    with porter(str(place.endpoint), 2, then) as standing:
        error = cut_short(database, place, standing)
    assert isinstance(error, Refused)
    wanted = r"could not write part \d of backup/data/00000\.public\.noise\S+: these credentials may not; grant them"
    assert re.fullmatch(rf"{wanted} s3:PutObject here \(AccessDenied\)", str(error))
    assert unfinished(place) == left
    swept_of_uploads(place)


def test_a_store_that_falls_silent_amid_an_upload_fails_the_dump_and_what_it_holds_is_listed(
    database: Address, place: S3Place
) -> None:
    with porter(str(place.endpoint), 2, "is silent") as standing:
        error = cut_short(database, place, standing)
    assert isinstance(error, Unreachable)
    wanted = r"could not begin the upload of backup/data/00000\.public\.noise\S+: the store does not answer"
    assert re.fullmatch(rf"{wanted} \(ReadTimeoutError\)", str(error))  # the second try of the object
    assert unfinished(place) == ["data/00000.public.noise.copy.zst.age"]
    swept_of_uploads(place)


def swept_of_uploads(place: S3Place) -> None:
    """As `prune` does it, when the store is well again."""
    objects = place.open()
    for each in list(objects.uploads()):
        objects.abort(each)
    assert not unfinished(place)


def test_a_store_that_fails_once_costs_one_object_a_second_try(database: Address, place: S3Place) -> None:
    run(database, "create table t (a integer)")
    with cut_once(str(place.endpoint)) as endpoint:
        contents = taken(database, replace(place, endpoint=endpoint, attempts=1))
    assert {entry.key for entry in place.open().list()} == {PREFIX + found.key for found in contents.objects}


@contextlib.contextmanager
def cut_once(endpoint: str) -> Generator[str]:
    """A way to endpoint whose first connection is closed without an answer."""
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            server.accept()[0].close()
            with contextlib.suppress(OSError):
                while True:
                    near, far = server.accept()[0], socket.create_connection((host, int(port)))
                    for source, target in ((near, far), (far, near)):
                        threading.Thread(target=pass_on, args=(source, target), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError), source, target:
        while data := source.recv(1 << 16):
            target.sendall(data)
