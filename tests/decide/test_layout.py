from datetime import timedelta

import pytest

from flows.catalogue.layout import Home, Seen, proof_key, role_of, signature_of, sort_keys
from tests.decide.builders import at

HOME = Home("production", "curator", "app")
ID = "20261124T020000Z-daily-k3v9q2"
FOLDER = f"production/curator/app/{ID}/"
OURS = [
    "schema.pgc.zst.age",
    "globals.sql.zst.age",
    "catalogue.txt.zst.age",
    "blobs.pgc.zst.age",
    "provider.json.zst.age",
    "data/00012.public.videos.copy.zst.age",
    "data/00012.public.비디오.copy.zst.age",
    "data/123456.a.b.copy.zst.age",
    "manifest.json",
    "manifest.json.sig",
    "proof-20261124T021412Z.json",
    "proof-20261124T021412Z.json.sig",
]
FOREIGN = [
    "database/2026/backup-20261124T020000-7mtysd.gz.enc",
    "production/curator/app/notes.txt",
    "production/curator/app/latest/manifest.json",
    f"production/curator/other/{ID}/manifest.json",
    f"staging/curator/app/{ID}/manifest.json",
    f"x/{FOLDER}manifest.json",
    FOLDER,
    FOLDER + "notes.txt",
    FOLDER + "schema.pgc.zst.age.sig",
    FOLDER + "data/1.a.b.copy.zst.age",
    FOLDER + "data/00001.a/b.copy.zst.age",
    FOLDER + "sub/manifest.json",
    FOLDER + "manifest.json.sig.sig",
]


@pytest.mark.parametrize("name", OURS)
def test_a_name_of_the_layout_is_ours(name: str) -> None:
    assert HOME.owner(FOLDER + name) == ID


@pytest.mark.parametrize("key", FOREIGN)
def test_everything_else_is_foreign(key: str) -> None:
    assert HOME.owner(key) is None


def test_keys_are_composed_as_they_are_recognised() -> None:
    proof = proof_key(at("2026-11-24T02:14"))
    assert proof == "proof-20261124T021400Z.json"
    assert HOME.owner(HOME.of(ID) + signature_of(proof)) == ID


def test_the_full_folder_has_the_stores_prefix() -> None:
    assert HOME.full("backups", ID) == f"backups/{FOLDER}"
    assert HOME.full("", ID) == FOLDER


def test_a_data_object_tells_its_role() -> None:
    assert role_of("data/00000.public.videos.copy.zst.age") == "data"
    assert role_of("manifest.json") is None


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a b", "앱", 'q"x', "a%2Fb"])
def test_a_database_of_any_name_has_one_folder_of_its_own(name: str) -> None:
    home = Home("production", "curator", name)
    assert home.folder.count("/") == 3
    assert "/../" not in f"/{home.folder}"
    assert home.owner(home.of(ID) + "manifest.json") == ID


def test_two_databases_never_share_a_folder() -> None:
    names = ["a/b", "a%2Fb", "a b", "a_b", "..", "%2E%2E"]
    assert len({Home("s", "s", name).folder for name in names}) == len(names)


def seen(*names: str, hours: float = 0) -> list[Seen]:
    return [Seen(name, at("11-24 12:00") - timedelta(hours=hours)) for name in names]


def shelve(*listed: Seen):  # noqa: ANN201 (the decision's own type)
    return sort_keys(listed, HOME, grace=timedelta(hours=24), now=at("11-24 12:00"))


def test_a_folder_with_a_manifest_is_a_backup_however_old() -> None:
    shelf = shelve(*seen(FOLDER + "schema.pgc.zst.age", FOLDER + "manifest.json", hours=9999))
    assert shelf.backups == {ID: (FOLDER + "manifest.json", FOLDER + "schema.pgc.zst.age")}
    assert (shelf.orphans, shelf.growing, shelf.foreign) == ({}, {}, ())


def test_objects_without_a_manifest_are_orphans_after_the_grace_time_only() -> None:
    assert shelve(*seen(FOLDER + "schema.pgc.zst.age", hours=25)).orphans == {ID: (FOLDER + "schema.pgc.zst.age",)}
    assert list(shelve(*seen(FOLDER + "schema.pgc.zst.age", hours=24)).growing) == [ID]


def test_a_backup_that_is_being_committed_is_no_orphan_however_old() -> None:
    old = seen(FOLDER + "schema.pgc.zst.age", hours=25)
    shelf = sort_keys(old, HOME, grace=timedelta(hours=24), now=at("11-24 12:00"), committing={ID})
    assert (list(shelf.growing), shelf.orphans) == ([ID], {})


def test_one_young_object_keeps_its_whole_folder_from_being_swept() -> None:
    old, young = FOLDER + "schema.pgc.zst.age", FOLDER + "manifest.json.sig"
    shelf = shelve(*seen(old, hours=99), *seen(young, hours=1))
    assert (shelf.growing, shelf.orphans) == ({ID: (young, old)}, {})


def test_foreign_keys_are_listed_and_never_swept_however_old() -> None:
    shelf = shelve(*seen(*FOREIGN, hours=99999))
    assert shelf.foreign == tuple(sorted(FOREIGN))
    assert (shelf.orphans, shelf.backups) == ({}, {})
