"""What prefect.yaml declares, read strictly.

Prefect itself drops a misspelt key without a word, and one bad schedule key drops every deployment; so the whole file
is judged here before anything is deployed, and every fault is told at once. This module asks no server and changes
nothing.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import Flow
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig, WorkPoolConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import BaseModel

FILE = Path(__file__).resolve().parents[1] / "prefect.yaml"
QUEUES = ("default", "restore")
SECRET = re.compile(
    r"pass(word|wd)?|secret|token|credential|dsn|(private|signing|api|access)_?key|identity", re.IGNORECASE
)
Given = dict[str, Any]


class DeclarationError(ValueError):
    """prefect.yaml is not as it must be, or does not name what was asked for; the message holds every fault found."""


@dataclass(frozen=True)
class Schedule:
    """When a deployment runs by itself."""

    slug: str
    cron: str
    timezone: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Declared:
    """One deployment as the repository wants it; `schema` is the form of the flow's parameters."""

    flow: str
    name: str
    entrypoint: str
    description: str
    tags: tuple[str, ...]
    parameters: Mapping[str, Any]
    pool: str
    queue: str
    schedules: tuple[Schedule, ...]
    job_variables: Mapping[str, Any]
    schema: Mapping[str, Any]

    @property
    def full_name(self) -> str:
        """As `prefect deployment run` wants it."""
        return f"{self.flow}/{self.name}"


def declared(stage: str | None = None, text: str | None = None) -> list[Declared]:
    """The deployments of one stage, or of all. Raises DeclarationError: every fault of the file, or no such stage."""
    text = FILE.read_text(encoding="utf-8") if text is None else text
    if faults := complaints(text):
        raise DeclarationError("prefect.yaml: " + "; ".join(faults))
    found = [_declared(one) for one in yaml.safe_load(text)["deployments"]]
    mine = [one for one in found if stage in (None, one.name)]
    if not mine:
        raise DeclarationError(
            f"prefect.yaml declares nothing for stage {stage!r}, only for {', '.join(stages(found))}"
        )
    return mine


def stages(found: list[Declared]) -> list[str]:
    """The stages that have deployments, in the file's order."""
    return list(dict.fromkeys(one.name for one in found))


def complaints(text: str) -> list[str]:
    """Every fault of a prefect.yaml, each as a sentence that names the deployment."""
    raw = yaml.safe_load(text)
    if not isinstance(raw, dict) or not isinstance(cast("Given", raw).get("deployments"), list):
        return ["no list of deployments"]
    raw = cast("Given", raw)
    return [*_head(raw), *(fault for one in raw["deployments"] for fault in _entry(one)), *_doubles(raw["deployments"])]


def _head(raw: Given) -> Iterator[str]:
    yield from _unknown("", raw, PrefectYamlModel, "definitions")
    if raw.get("pull") != []:
        yield "no `pull: []`: without it Prefect writes this machine's path into every deployment"


def _entry(one: Given) -> Iterator[str]:
    where = f"{one.get('entrypoint')} {one.get('name')}: "
    yield from _unknown(where, one, DeploymentConfig)
    yield from _house(where, one)
    yield from _unknown(where, _mapping(one, "work_pool"), WorkPoolConfig)
    flow = load(str(one.get("entrypoint")))
    if isinstance(flow, str):
        yield where + flow
        return
    yield from _parameters(where, one, flow)


def _house(where: str, one: Given) -> Iterator[str]:
    """Rules of this repository, which Prefect does not know."""
    name, pool = one.get("name"), _mapping(one, "work_pool")
    if not name or name != pool.get("name") or name != _mapping(one, "parameters").get("stage"):
        yield f"{where}a deployment, its work pool and its parameter `stage` carry the name of one stage"
    if pool.get("work_queue_name") not in QUEUES:
        yield f"{where}queue {pool.get('work_queue_name')!r}, wanted one of {', '.join(QUEUES)}"
    for key, why in (
        ("description", "a person reads it in the list"),
        ("tags", "the list is filtered by them"),
        ("enforce_parameter_schema", "the default, said aloud"),
    ):
        if not one.get(key):
            yield f"{where}no {key}: {why}"
    if "concurrency_limit" in one:
        yield f"{where}concurrency_limit: the lease refuses or waits, and says who holds it"


def _parameters(where: str, one: Given, flow: Flow[..., Any]) -> Iterator[str]:
    schema, given = _schema(flow), _mapping(one, "parameters")
    properties = cast("Given", schema["properties"])
    yield from (
        f"{where}unknown parameter {key!r}{_nearest(key, properties)}" for key in given.keys() - properties.keys()
    )
    yield from (
        f"{where}parameter {key!r} sounds like a secret: parameters are stored in clear"
        for key in properties
        if SECRET.search(key)
    )
    yield from (f"{where}{fault.message}" for fault in validate(given, schema, ignore_required=True))
    for each in _schedules(one):
        yield from _schedule(f"{where}schedule {each.get('slug')}: ", each, given, schema)


def _schedule(where: str, each: Given, given: Given, schema: Given) -> Iterator[str]:
    if "active" in each:
        yield f"{where}says `active`: the next deploy would undo a person's pause"
    if not each.get("slug") or each.get("timezone") != "UTC":
        yield f"{where}needs a slug, and timezone UTC"
    try:
        RawScheduleConfig.model_validate(each)
        CronSchedule(cron=each["cron"], timezone=each.get("timezone"))
    except (KeyError, ValueError) as wrong:
        yield where + re.sub(r"\s+", " ", str(wrong))
    own = _mapping(each, "parameters")
    yield from (f"{where}unknown parameter {key!r}" for key in own.keys() - schema["properties"].keys())
    yield from (f"{where}{fault.message}" for fault in validate(given | own, schema))


def _doubles(entries: list[Given]) -> Iterator[str]:
    for key, what in ((_identity, "declared twice"), (_slugs, "one slug twice")):
        seen = [name for one in entries for name in key(one)]
        yield from (f"{name}: {what}" for name in dict.fromkeys(seen) if seen.count(name) > 1)


def _identity(one: Given) -> list[str]:
    return [f"{one.get('entrypoint')} {one.get('name')}"]


def _slugs(one: Given) -> list[str]:
    return [f"{_identity(one)[0]} {each.get('slug')}" for each in _schedules(one)]


def load(entrypoint: str) -> Flow[..., Any] | str:
    """The flow of a dotted entrypoint, or the sentence that says why there is none."""
    module, _, name = entrypoint.rpartition(".")
    if not module or ":" in entrypoint:
        return f"entrypoint {entrypoint!r} is a path: write module.path.flow, then a failing import fails loudly"
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        return f"entrypoint does not load: {error}"
    return cast("Flow[..., Any]", found) if isinstance(found, Flow) else f"{entrypoint} is no flow"


def _declared(one: Given) -> Declared:
    flow = load(one["entrypoint"])
    if isinstance(flow, str):  # complaints() said so already
        raise DeclarationError(flow)
    pool = one["work_pool"]
    return Declared(
        flow=flow.name,
        name=one["name"],
        entrypoint=one["entrypoint"],
        description=one["description"],
        tags=tuple(one["tags"]),
        parameters=one["parameters"],
        pool=pool["name"],
        queue=pool["work_queue_name"],
        schedules=tuple(
            Schedule(each["slug"], each["cron"], each["timezone"], _mapping(each, "parameters"))
            for each in _schedules(one)
        ),
        job_variables=_mapping(pool, "job_variables"),
        schema=_schema(flow),
    )


def _mapping(one: Given, key: str) -> Given:
    return cast("Given", one.get(key) or {})


def _schedules(one: Given) -> list[Given]:
    return cast("list[Given]", one.get("schedules") or [])


def _schema(flow: Flow[..., Any]) -> Given:
    return parameter_schema(flow).model_dump(exclude_unset=True)


def _unknown(where: str, given: Given, model: type[BaseModel], *allowed: str) -> Iterator[str]:
    known = {each.alias or name for name, each in model.model_fields.items()} | set(allowed)
    yield from (f"{where}unknown key {key!r}{_nearest(key, known)}" for key in given.keys() - known)


def _nearest(key: str, known: Collection[str]) -> str:
    found = get_close_matches(key, list(known), 1)
    return f", nearest {found[0]!r}" if found else ""
