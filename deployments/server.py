"""Makes the Prefect server equal to the repository for one stage alone, and says line by line what that changed.

Everything is compared first and only what differs is written, so a second apply changes nothing. What a person paused
stays paused; what the repository no longer names is listed, and removed only when asked to. What is missing is told
before the first change. Nothing here reads or changes another stage.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, WorkPoolFilter
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from blocks.errors import Missing, Refused, Unreachable
from deployments.automations import tell_of_failures
from deployments.check import shared_ledger
from deployments.declared import Declared
from deployments.report import Report
from deployments.saved import plan_blocks, save_blocks
from flows.stage import Stage
from flows.world import World


def apply(
    stage: Stage,
    wanted: Sequence[Declared],
    environ: Mapping[str, str],
    *,
    prune: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Apply one stage, with all that prefect.yaml declares for it, to the server at PREFECT_API_URL; counts changes."""
    name, report = stage.name, Report(say)
    with reached() as client:
        blocks = plan_blocks(client, stage, environ)
        _ledger(stage, environ, report)
        _pool(client, wanted, report)
        save_blocks(client, blocks, report, prune=prune)
        found = deployed(client, name)
        for one in wanted:
            _deploy(client, one, found.pop(one.full_name, None), report)
        _orphans(client, found, report, prune=prune)
        _orphaned_queues(client, wanted, found, report, prune=prune)
        tell_of_failures(client, name, deployed(client, name), report, prune=prune)
    report.close(f"stage {name} at {PREFECT_API_URL.value()}")
    return report.changes


@contextmanager
def reached() -> Generator[SyncPrefectClient]:
    """A client of the server at PREFECT_API_URL, which answers; without one Prefect would start a server itself."""
    url = PREFECT_API_URL.value()
    if not url:
        raise Missing("PREFECT_API_URL is not set: name the Prefect server")
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            raise Unreachable(
                f"no Prefect server answers at {url} ({type(error).__name__}): start it, or mend PREFECT_API_URL"
            )
        yield client


def _pool(client: SyncPrefectClient, wanted: Sequence[Declared], report: Report) -> None:
    name = wanted[0].pool
    try:
        found = client.read_work_pool(name)
        report.same(f"work pool {name}" + (f", of type {found.type}" if found.type != "process" else ""))
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=f"Runs of stage {name}."))
        report.changed("created", f"work pool {name}")
    for queue in sorted({one.queue for one in wanted}):
        try:
            client.read_work_queue_by_name(queue, work_pool_name=name)
            report.same(f"queue {name}/{queue}")
        except ObjectNotFound:
            client.create_work_queue(queue, work_pool_name=name)
            report.changed("created", f"queue {name}/{queue}")


def _ledger(stage: Stage, environ: Mapping[str, str], report: Report) -> None:
    if why := shared_ledger(stage, environ):
        raise Refused(why)
    world = World(stage, environ if environ.get("LEDGER_URL") else None)
    told = world.ledger.migrate()
    if told.endswith("nothing to do"):
        report.same(told.removesuffix(": nothing to do"))
    else:
        report.changed("migrated", told)


def deployed(client: SyncPrefectClient, name: str) -> dict[str, DeploymentResponse]:
    """The deployments of a stage that the server has, by FLOW/STAGE."""
    mine = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    flows = {flow.id: flow.name for flow in client.read_flows(deployment_filter=mine)}
    return {f"{flows[each.flow_id]}/{each.name}": each for each in client.read_deployments(deployment_filter=mine)}


def _deploy(client: SyncPrefectClient, one: Declared, found: DeploymentResponse | None, report: Report) -> None:
    different = differences(one, found) if found else ["new"]
    if not different:
        report.same(f"deployment {one.full_name}{_pauses(found)}")
        return
    client.create_deployment(
        flow_id=client.create_flow_from_name(one.flow),
        name=one.name,
        entrypoint=one.entrypoint,
        description=one.description,
        tags=list(one.tags),
        parameters=dict(one.parameters),
        work_pool_name=one.pool,
        work_queue_name=one.queue,
        job_variables=dict(one.job_variables),
        pull_steps=[],
        parameter_openapi_schema=dict(one.schema),
        enforce_parameter_schema=True,
        paused=bool(found and found.paused),
        schedules=_schedules(one, found),
    )
    what = f"deployment {one.full_name}"
    report.changed(*(("updated", f"{what}: {', '.join(different)}{_pauses(found)}") if found else ("created", what)))


def differences(one: Declared, found: DeploymentResponse) -> list[str]:
    """The names of the fields in which the server's deployment is not what the repository says."""
    pairs: dict[str, tuple[Any, Any]] = {
        "entrypoint": (one.entrypoint, found.entrypoint),
        "description": (one.description, found.description),
        "tags": (set(one.tags), set(found.tags)),
        "parameters": (dict(one.parameters), found.parameters),
        "work pool": (one.pool, found.work_pool_name),
        "queue": (one.queue, found.work_queue_name),
        "job variables": (dict(one.job_variables), found.job_variables or {}),
        "form": (dict(one.schema), found.parameter_openapi_schema or {}),
        "enforced form": (True, found.enforce_parameter_schema),
        "pull steps": ([], found.pull_steps or []),
        "concurrency limit": (None, found.global_concurrency_limit),
        "schedules": (
            sorted((each.slug, each.cron, each.timezone, repr(dict(each.parameters))) for each in one.schedules),
            sorted(_told(each) for each in found.schedules),
        ),
    }
    return [name for name, (wanted, there) in pairs.items() if wanted != there]


def _told(each: DeploymentSchedule) -> tuple[str, str, str, str]:
    when = each.schedule
    cron, timezone = (when.cron, when.timezone or "") if isinstance(when, CronSchedule) else (repr(when), "")
    return each.slug or "", cron, timezone, repr(each.parameters)


def _schedules(one: Declared, found: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    """All schedules of a deployment; one that is paused on the server stays so."""
    paused = {each.slug for each in found.schedules if not each.active} if found else set[str | None]()
    return [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=each.cron, timezone=each.timezone),
            active=each.slug not in paused,
            parameters=dict(each.parameters),
            slug=each.slug,
        )
        for each in one.schedules
    ]


def _pauses(found: DeploymentResponse | None) -> str:
    """Says what a person paused, so that nobody wonders why nothing runs."""
    if found is None:
        return ""
    slugs = [each.slug or "?" for each in found.schedules if not each.active]
    said = [*(["paused"] if found.paused else []), *([f"schedule {', '.join(slugs)} paused"] if slugs else [])]
    return f" ({'; '.join(said)} by a person: stays so)" if said else ""


def _orphans(
    client: SyncPrefectClient, found: Mapping[str, DeploymentResponse], report: Report, *, prune: bool
) -> None:
    for name, each in found.items():
        if prune:
            client.delete_deployment(each.id)
            report.changed("removed", f"deployment {name}")
        else:
            report.orphan(f"deployment {name}")


def _orphaned_queues(
    client: SyncPrefectClient,
    wanted: Sequence[Declared],
    orphans: Mapping[str, DeploymentResponse],
    report: Report,
    *,
    prune: bool,
) -> None:
    """Queues of the pool on which no deployment lies but `orphans`; Prefect keeps a default one in every pool."""
    pool = client.read_work_pool(wanted[0].pool)
    named = {one.queue for one in wanted}
    on_pool = WorkPoolFilter.model_validate({"name": {"any_": [pool.name]}})
    gone = {each.id for each in orphans.values()}
    on_it = client.read_deployments(work_pool_filter=on_pool)
    used = {each.work_queue_id for each in on_it if each.id not in gone}
    for queue in client.read_work_queues(work_pool_name=pool.name):
        if queue.name in named or queue.id in used or queue.id == pool.default_queue_id:
            continue
        if prune:
            client.delete_work_queue_by_id(queue.id)
            report.changed("removed", f"queue {pool.name}/{queue.name}")
        else:
            report.orphan(f"queue {pool.name}/{queue.name}")
