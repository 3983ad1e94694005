"""The order inside one write: wherever it was cut off, a backup is there whole and signed, or it is not there."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from pydantic import SecretStr

from blocks.errors import Unreachable
from blocks.keys import BackupKeys, new_keys
from blocks.storage.directory import DirectoryObjects
from blocks.storage.objects import NO_METADATA, DirectoryPlace, Objects, Stored
from flows.backup.settings import SignedManifest, fingerprint
from flows.catalogue.layout import MANIFEST, Seen, home_of, proof_key, signature_of, sort_keys
from flows.prune.settings import Contents, Papers
from flows.stage import Stage
from flows.world import World
from tests.decide import builders

STAGE = """
[service]
name = "curator"
[database]
name = "app"
[objectives]
rpo = "1h"
rto = "4h"
[store]
bucket = "backups"
"""
BACKUP = "20261124T020000Z-daily-k3v9q2"
PROOF = proof_key(datetime(2026, 11, 24, 2, 14, tzinfo=UTC))
PAPERS = {MANIFEST, signature_of(MANIFEST)}
PROOFS = {PROOF, signature_of(PROOF)}
DATA = {"schema.pgc.zst.age", "globals.sql.zst.age", "data/00000.public.videos.copy.zst.age"}


class Exhausted(DirectoryObjects):
    """A directory that obeys so many commands that change it, and then answers no more."""

    def __init__(self, place: DirectoryPlace, commands: int) -> None:
        super().__init__(place)
        self._left = commands

    def put(
        self,
        key: str,
        data: bytes,
        *,
        only_if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        storage_class: str | None = None,
    ) -> Stored:
        """Put it, while it answers."""
        self._obey()
        return super().put(key, data, only_if_absent=only_if_absent, metadata=metadata, storage_class=storage_class)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete one after the other, while it answers."""
        for key in keys:
            self._obey()
            super().delete([key])

    def _obey(self) -> None:
        if not self._left:
            raise Unreachable("the store does not answer any more")
        self._left -= 1


@dataclass(frozen=True)
class Room:
    """A stage, its keys and one folder that is the store for all."""

    stage: Stage
    keys: BackupKeys
    place: DirectoryPlace

    def obeying(self, commands: int) -> World:
        """The world as it is while its store obeys so many commands."""
        return cast("World", NarrowWorld(self.stage, self.keys, Exhausted(self.place, commands)))

    def names(self) -> set[str]:
        """What lies in the backup's folder."""
        folder = home_of(self.stage).of(BACKUP)
        return {entry.key.removeprefix(folder) for entry in self.place.open().list(folder)}

    def fill(self, *names: str) -> None:
        """Put something under those names."""
        for name in names:
            self.place.open().put(home_of(self.stage).of(BACKUP) + name, b"x")

    def is_listed(self) -> bool:
        """Whether that backup counts as one."""
        seen = [Seen(entry.key, entry.modified) for entry in self.place.open().list()]
        shelf = sort_keys(seen, home_of(self.stage), grace=timedelta(hours=24), now=datetime.now(UTC))
        return BACKUP in shelf.backups


@dataclass(frozen=True)
class NarrowWorld:
    """What these settings see of a world."""

    stage: Stage
    keys: BackupKeys
    open: Objects

    def objects(self) -> Objects:
        """The open store."""
        return self.open

    @property
    def store(self) -> "NarrowWorld":
        """One set of rights for all."""
        return self

    pruning = store


@pytest.fixture
def room(tmp_path: Path) -> Room:
    new = new_keys()
    keys = BackupKeys(
        recipients=[new.team_recipient],
        verifying_keys=[new.backup_verifying_key],
        signing_key=SecretStr(new.backup_signing_key),
    )
    return Room(Stage.parse(STAGE, "production"), keys, DirectoryPlace(str(tmp_path / "store")))


def test_a_commit_that_was_cut_off_left_no_manifest_and_ends_when_it_is_run_again(room: Room) -> None:
    text = builders.read(builders.manifest()).text()
    signature = base64.b64encode(room.keys.sign(text)).decode()
    setting = SignedManifest(home_of(room.stage).of(BACKUP), text.decode(), signature)

    with pytest.raises(Unreachable):
        setting.write(room.obeying(1), fingerprint(text))

    assert room.names() == {signature_of(MANIFEST)}
    assert not room.is_listed()
    setting.write(room.obeying(2), fingerprint(text))
    assert setting.read(room.obeying(0)) == fingerprint(text)
    assert room.is_listed()


def test_a_backup_that_is_being_hidden_is_unlisted_by_the_first_command(room: Room) -> None:
    room.fill(*PAPERS, *PROOFS, *DATA)
    setting = Papers(BACKUP)

    with pytest.raises(Unreachable):
        setting.write(room.obeying(1), want=False)

    assert room.names() == {signature_of(MANIFEST)} | PROOFS | DATA
    assert not room.is_listed()
    assert setting.read(room.obeying(0)) is True  # not yet where it should be: the journal goes on with it
    setting.write(room.obeying(2), want=False)
    assert room.names() == PROOFS | DATA
    assert setting.read(room.obeying(0)) is False


@pytest.mark.parametrize("commands", range(len(PROOFS | DATA)))
def test_a_deletion_that_was_cut_off_left_the_proofs_for_the_last(room: Room, commands: int) -> None:
    room.fill(*PROOFS, *DATA)
    setting = Contents(BACKUP)

    with pytest.raises(Unreachable):
        setting.write(room.obeying(commands), 0)

    left = room.names()
    assert len(left) == len(PROOFS | DATA) - commands
    assert left >= PROOFS or not left & DATA
    setting.write(room.obeying(len(left)), 0)
    assert room.names() == set()
    assert setting.read(room.obeying(0)) == 0
