"""prefect.yaml says what it means: no key is dropped, every parameter is one, every flow has its deployments."""

from typing import Any

import pytest
import yaml
from prefect import Flow

from deployments.declared import FILE, DeclarationError, complaints, declared, load, stages
from tests.shape import house

GOOD: dict[str, Any] = {
    "pull": [],
    "definitions": {"anything": 1},
    "deployments": [
        {
            "name": "lab",
            "entrypoint": "tests.shape.sample.count",
            "description": "Counts.",
            "tags": ["count", "lab"],
            "parameters": {"stage": "lab"},
            "enforce_parameter_schema": True,
            "work_pool": {"name": "lab", "work_queue_name": "default"},
            "schedules": [
                {"slug": "nightly", "cron": "17 2 * * *", "timezone": "UTC", "parameters": {"kind": "weekly"}}
            ],
        }
    ],
}
FAULTS: list[tuple[str, Any, str]] = [
    ("deployments", {}, "no list of deployments"),
    ("pul", [], "unknown key 'pul', nearest 'pull'"),
    ("pull", [{"a": 1}], "no `pull: []`"),
    (
        "deployments.0.descriptoin",
        "x",
        "tests.shape.sample.count lab: unknown key 'descriptoin', nearest 'description'",
    ),
    ("deployments.0.description", "", "no description: a person reads it"),
    ("deployments.0.name", "other", "carry the name of one stage"),
    ("deployments.0.concurrency_limit", 1, "concurrency_limit: the lease refuses or waits"),
    ("deployments.0.entrypoint", "tests/shape/sample.py:count", "is a path: write module.path.flow"),
    ("deployments.0.entrypoint", "tests.shape.sample.cuont", "entrypoint does not load"),
    ("deployments.0.entrypoint", "tests.shape.smaple.count", "entrypoint does not load: No module named"),
    ("deployments.0.entrypoint", "tests.shape.sample.no_flow", "tests.shape.sample.no_flow is no flow"),
    ("deployments.0.entrypoint", "tests.shape.sample.leak", "parameter 'api_key' sounds like a secret"),
    ("deployments.0.work_pool.queue", "default", "unknown key 'queue'"),
    ("deployments.0.work_pool.work_queue_name", "resotre", "queue 'resotre', wanted one of default, restore"),
    ("deployments.0.parameters.knid", "daily", "unknown parameter 'knid', nearest 'kind'"),
    ("deployments.0.parameters.kind", "hourly", "'hourly' is not one of ['daily', 'weekly']"),
    ("deployments.0.parameters.percent", 101, "101 is greater than the maximum of 100"),
    ("deployments.0.schedules.0.active", True, "says `active`"),
    ("deployments.0.schedules.0.slgu", "x", "schedule nightly: 1 validation error"),
    ("deployments.0.schedules.0.slug", None, "needs a slug, and timezone UTC"),
    ("deployments.0.schedules.0.cron", "61 2 * * *", 'Invalid cron string: "61 2 * * *"'),
    ("deployments.0.schedules.0.timezone", "Europe/Nowhere", "needs a slug, and timezone UTC"),
    ("deployments.0.schedules.0.parameters.knd", "daily", "schedule nightly: unknown parameter 'knd'"),
    ("deployments.0.schedules.0.parameters.kind", "hourly", "schedule nightly: 'hourly' is not one of"),
]


def planted(path: str, value: object) -> str:
    text: Any = yaml.safe_load(yaml.safe_dump(GOOD))
    place, *keys = text, *path.split(".")
    for key in keys[:-1]:
        place = place[int(key) if key.isdigit() else key]
    place[keys[-1]] = value
    return yaml.safe_dump(text)


def test_the_file_has_no_fault() -> None:
    assert complaints(FILE.read_text(encoding="utf-8")) == []


def test_a_good_file_has_no_fault() -> None:
    assert complaints(yaml.safe_dump(GOOD)) == []
    one = declared("lab", yaml.safe_dump(GOOD))[0]
    assert (one.full_name, one.pool, one.queue, one.schedules[0].slug) == ("count/lab", "lab", "default", "nightly")
    assert one.schema["properties"]["percent"]["description"] == "share of the tables, 0-100"


@pytest.mark.parametrize(
    ("path", "value", "sentence"), FAULTS, ids=[f"{path}-{n}" for n, (path, _, _) in enumerate(FAULTS)]
)
def test_a_planted_fault_is_found(path: str, value: object, sentence: str) -> None:
    assert sentence in "\n".join(complaints(planted(path, value)))


def test_a_deployment_declared_twice_is_found() -> None:
    twice = {**GOOD, "deployments": GOOD["deployments"] * 2}
    assert "tests.shape.sample.count lab: declared twice" in complaints(yaml.safe_dump(twice))


def test_every_fault_is_told_at_once() -> None:
    text = planted("deployments.0.parameters.knid", "daily").replace("weekly", "hourly")
    with pytest.raises(DeclarationError, match=r"'knid'.*; .*'hourly'"):
        declared("lab", text)


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeclarationError, match="nothing for stage 'lba', only for lab"):
        declared("lba", yaml.safe_dump(GOOD))


def test_every_flow_is_deployed_for_every_stage() -> None:
    names = {f"{module.name}.{function.name}" for module, function in house.flows(house.modules())}
    raw = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]
    assert names, "no flow was found"
    for stage in dict.fromkeys(one["name"] for one in raw):
        deployed = {one["entrypoint"] for one in raw if one["name"] == stage}
        assert deployed == names, (
            f"{stage}: {deployed ^ names} is either a flow without a deployment or the reverse; prefect.yaml lists all"
        )


def test_a_flow_has_the_name_that_its_deployments_are_asked_for_by() -> None:
    for entrypoint in {one["entrypoint"] for one in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]}:
        flow = load(entrypoint)
        assert isinstance(flow, Flow), flow
        assert flow.name == entrypoint.rpartition(".")[2], (
            "`prefect deployment run NAME/STAGE` and `deployments run NAME` must agree"
        )


def test_every_stage_described_is_a_stage_deployed() -> None:
    described = {file.stem for file in (house.ROOT / "deployments" / "stages").glob("*.toml")}
    assert described == set(stages(declared()))
