"""The picture of the evidence: an SVG that any browser reads, with everything on it that a person needs."""

import base64
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from flows.bake.baseline import Baseline
from flows.bake.looks import BakeRules, Look
from flows.bake.plot import HEIGHT, WIDTH, evidence_image, evidence_plot
from flows.bake.rule import Judgement, judge

HIST = tuple(9500 if place == 20 else 500 if place == 40 else 10_000 if place == 10 else 0 for place in range(61))
STABLE = Baseline(minutes=67, n=20_000, errors=4, hist=HIST)
SVG = "{http://www.w3.org/2000/svg}"


def judged(*errors: int, **more: Any) -> Judgement:
    looks = [
        Look(at=10 * place, n=50, errors=bad, dependency_n=4, dependency_bad=int(place == 2), **more)
        for place, bad in enumerate(errors, start=1)
    ]
    return judge(STABLE, looks, BakeRules())


def drawn(judgement: Judgement) -> ET.Element:
    return ET.fromstring(evidence_plot(judgement, title="Evidence <against> v42"))  # noqa: S314 - our own text


def texts(picture: ET.Element) -> list[str]:
    return [each.text or "" for each in picture.iter(f"{SVG}text")]


def numbers(picture: ET.Element) -> list[tuple[float, float]]:
    lines = [each.get("points", "").split() for each in picture.iter(f"{SVG}polyline")]
    return [(float(x), float(y)) for points in lines for x, y in (point.split(",") for point in points)]


def test_it_has_a_title_axes_marks_and_a_line_a_signal() -> None:
    picture = drawn(judged(*[0] * 12, probes_n=6, hist=(50, *[0] * 60)))
    found = texts(picture)
    for wanted in ("Evidence <against> v42", "seconds since go-live", "evidence against the release, x : 1"):
        assert wanted in found
    assert {"1  no evidence", "20  strong", "200  rollback", "400  rollback", "1000  rollback"} <= set(found)
    assert [each.findtext(f"{SVG}title") for each in picture.iter(f"{SVG}polyline")] == [
        "errors",
        "p95 latency",
        "median latency",
        "probes",
    ]


def test_frozen_looks_are_one_shade() -> None:
    shades = [each for each in drawn(judged(*[0] * 12)).iter(f"{SVG}rect") if float(each.get("height", 0)) > 100]
    assert len(shades) == 2  # the card and the shade
    assert "frozen" in texts(drawn(judged(*[0] * 12)))
    assert "frozen" not in texts(drawn(judged(0)))


@pytest.mark.parametrize("errors", [(), (0,), (50,) * 60, (0,) * 360], ids=["none", "one", "worst", "an hour"])
def test_every_line_stays_on_the_card(errors: tuple[int, ...]) -> None:
    for x, y in numbers(drawn(judged(*errors))):
        assert 0 < x < WIDTH
        assert 0 < y < HEIGHT


def test_a_line_starts_at_one_and_rises_to_the_evidence() -> None:
    points = numbers(drawn(judged(*[5] * 9)))
    assert points[0][1] > points[-1][1]
    assert len(points) == 1 + len(judged(*[5] * 9).times)


def test_a_signal_that_says_nothing_has_no_line() -> None:
    assert not numbers(drawn(judged()))


def test_the_image_is_the_picture_as_a_data_uri() -> None:
    found = evidence_image(judged(0), title="v42")
    head, _, data = found.removesuffix(")").partition("base64,")
    assert head == "![v42](data:image/svg+xml;"
    assert base64.b64decode(data).decode() == evidence_plot(judged(0), title="v42")
