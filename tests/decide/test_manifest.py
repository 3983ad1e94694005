import json
from collections.abc import Callable
from typing import Any

import pytest

from flows.catalogue.manifest import Manifest, ManifestError, ProofPaper
from tests.decide.builders import PREFIX, digest, manifest, read


def test_a_manifest_says_again_exactly_what_was_read() -> None:
    assert json.loads(read(manifest()).text()) == manifest()


def test_its_text_is_canonical() -> None:
    expected = json.dumps(manifest(), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    assert read(manifest()).text() == expected


def test_the_order_of_the_keys_does_not_matter() -> None:
    backwards = dict(reversed(manifest().items()))
    assert read(backwards).text() == read(manifest()).text()


def test_one_made_of_python_values_is_the_same() -> None:
    assert Manifest.model_validate(manifest()).text() == read(manifest()).text()


def test_an_empty_optional_field_is_left_out_and_a_required_null_is_written() -> None:
    said = json.loads(read(manifest()).text())
    assert "table" not in said["objects"][0]
    assert said["locked_until"] is None


def change(path: str, value: Any) -> dict[str, Any]:
    whole = manifest()
    inner: Any = whole
    *way, last = path.split(".")
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = value
    return whole


def remove(name: str) -> dict[str, Any]:
    return {key: value for key, value in manifest().items() if key != name}


def twice(name: str) -> dict[str, Any]:
    return {**manifest(), name: [*manifest()[name], manifest()[name][-1]]}


@pytest.mark.parametrize(
    ("forged", "sentence"),
    [
        (lambda: change("format", "shipkeeper-backup/2"), "was made by a newer shipkeeper: its format is"),
        (lambda: change("format", "tar"), "has not the format shipkeeper-backup/1"),
        (lambda: change("format", 1), "has not the format shipkeeper-backup/1"),
        (lambda: change("colour", "red"), "was made by a newer shipkeeper: it has the field colour"),
        (lambda: change("objects.0.colour", "red"), "a newer shipkeeper: it has the field objects.0.colour"),
        (lambda: remove("excluded"), "lacks the field excluded"),
        (lambda: change("operation", "4711"), "has a wrong operation"),
        (lambda: change("started", "2026-11-24T02:00:00"), "has a wrong started"),
        (lambda: change("sequences.0.last_value", 280001), "has a wrong sequences.0.last_value"),
        (lambda: change("objects.1.sha256", "zz"), "has a wrong objects.1.sha256"),
        (lambda: change("recipients", []), "has a wrong recipients"),
        (lambda: change("id", "20261124T020000Z-daily-aaaaaa"), "daily-aaaaaa, which is not its folder's"),
        (lambda: change("id", "latest"), "is not believable: 'latest' is no backup id"),
        (lambda: change("prefix", PREFIX.replace("app", "other")), "says it belongs to backups/production/cur"),
        (lambda: change("stage", "staging"), "does not lie where staging/curator/app/"),
        (lambda: change("database.name", "other"), "does not lie where production/curator/other/"),
        (lambda: change("kind", "weekly"), "is weekly by its word and daily by its id"),
        (lambda: change("snapshot.time", "2026-11-24T03:00:00Z"), "has another snapshot time than its id"),
        (lambda: change("finished", "2026-11-24T01:00:00Z"), "ended before it began"),
        (lambda: twice("objects"), "lists data/00000.public.비디오.copy.zst.age 2 times"),
        (lambda: twice("tables"), "has 0 data objects for public.비디오, where one is wanted"),
        (lambda: change("tables", []), "has data for table 0, which it does not list"),
        (lambda: change("objects.0.key", "../../other/schema.pgc.zst.age"), "which is no name of schema"),
        (lambda: change("objects.1.key", "data/00000/../x.copy.zst.age"), "which is no name of data"),
        (lambda: change("objects.0.role", "globals"), "has 0 schema objects, where one is wanted"),
        (lambda: change("objects.1.rows", None), "without its table, rows or hash"),
        (lambda: change("objects.0.rows", 3), "which is not data, with a table or rows"),
        (lambda: change("objects.0.parts.0.bytes", 9), "whose parts do not add up"),
        (lambda: change("totals.rows", 4), "says 4 rows in all, its list holds 3"),
        (lambda: change("totals.stored_bytes", 41), "says 41 stored_bytes in all, its list holds 40"),
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself_is_refused(forged: Callable[[], dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(forged())
    assert str(caught.value).startswith(f"the manifest in {PREFIX} ")
    assert sentence in str(caught.value)


def test_a_copied_manifest_is_refused_in_its_new_folder() -> None:
    elsewhere = PREFIX.replace("k3v9q2", "aaaaaa")
    with pytest.raises(ManifestError, match="says it belongs to"):
        read(manifest(), elsewhere)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": []}'])
def test_what_is_no_manifest_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"is no JSON text|has not the format"):
        Manifest.parse(data, prefix=PREFIX)


def test_a_store_without_a_prefix_is_fine() -> None:
    bare = PREFIX.removeprefix("backups/")
    assert read(manifest(prefix=bare), bare).prefix == bare


def paper(**more: Any) -> bytes:
    values: dict[str, Any] = {
        "format": "shipkeeper-proof/1",
        "id": "proof-20261124T021412Z",
        "backup": "20261124T020000Z-daily-k3v9q2",
        "manifest_sha256": digest("m"),
        "verdict": "proven",
        "exceptions": [],
        "lacks": [],
        "differences": [],
        "server_version": "17.10",
        "started": "2026-11-24T02:14:00.000Z",
        "finished": "2026-11-24T02:14:12.000Z",
        "seconds": {"download": 1.0, "load": 2.5, "compare": 3.0},
        "prover": "9f2c01ab",
    }
    return json.dumps({**values, **more}).encode()


KEY = "production/curator/app/20261124T020000Z-daily-k3v9q2/proof-20261124T021412Z.json"
DIFFERENCE = {"what": "public.videos", "wanted": "3 rows", "found": "2 rows"}


def test_a_proof_says_again_exactly_what_was_read() -> None:
    assert json.loads(ProofPaper.parse(paper(), key=KEY).text()) == json.loads(paper())


def test_a_proof_becomes_a_record() -> None:
    record = ProofPaper.parse(paper(verdict="disproven", differences=[DIFFERENCE]), key=KEY).record()
    assert (record.verdict, record.differences[0].found, record.seconds["load"]) == ("disproven", "2 rows", 2.5)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"format": "shipkeeper-proof/2"}, "was made by a newer shipkeeper"),
        ({"format": "shipkeeper-backup/1"}, "has not the format shipkeeper-proof/1"),
        ({"id": "proof-20261124T021413Z"}, "says it is proof-20261124T021413Z"),
        ({"backup": "20261124T020000Z-daily-aaaaaa"}, "is of another backup"),
        ({"differences": [DIFFERENCE]}, "says proven and names differences"),
        ({"verdict": "disproven"}, "says disproven and names no difference"),
        ({"verdict": "unproven"}, "says unproven and not what was lacking"),
        ({"verdict": "disproven", "differences": [DIFFERENCE] * 21}, "has a wrong differences"),
        ({"verdict": "fine"}, "has a wrong verdict"),
        ({"mood": "good"}, "it has the field mood"),
    ],
)
def test_a_proof_that_contradicts_itself_is_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ManifestError) as caught:
        ProofPaper.parse(paper(**more), key=KEY)
    assert sentence in str(caught.value)
