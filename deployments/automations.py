"""Automations on the Prefect server: where a Slack webhook is configured, people are told of failed runs.

An automation is a courtesy, not a pager: Prefect loses events when an emitter dies at once. Status reports the same.
"""

from collections.abc import Mapping
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect_slack import SlackWebhook

from blocks.errors import Refused
from deployments.report import Report

NAME = "{stage}: tell of failed and disproven backups"
TOLD = ("backup", "prove", "verify")  # the flows whose failed runs are told
BODY = "{{ flow_run.name }}: {{ flow_run.state.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def tell_of_failures(
    client: SyncPrefectClient, stage: str, deployed: Mapping[str, DeploymentResponse], report: Report, *, prune: bool
) -> None:
    """Declare the automation of a stage; without a SlackWebhook block of the stage there is none."""
    name = NAME.format(stage=stage)
    found = client.read_automations_by_name(name)
    if len(found) > 1:
        raise Refused(f"{len(found)} automations are named {name!r}, and apply makes one: remove the others in the UI")
    wanted = _wanted(client, stage, told_of(stage, deployed), enabled=found[0].enabled if found else True)
    if wanted is None and found and prune:
        client.delete_automation(found[0].id)
        report.changed("removed", f"automation {name}")
    elif wanted is None and found:
        report.orphan(f"automation {name}")
    elif wanted is None:
        report.kept(f"automation {name} absent: no Slack webhook is configured")
    elif not found:
        client.create_automation(wanted)
        report.changed("created", f"automation {name}")
    elif AutomationCore(**found[0].model_dump(exclude={"id", "owner_resource"})) != wanted:
        client.update_automation(found[0].id, wanted)
        report.changed("updated", f"automation {name}")
    else:
        report.same(f"automation {name}")


def _wanted(client: SyncPrefectClient, stage: str, told: list[str], *, enabled: bool) -> AutomationCore | None:
    try:
        webhook = client.read_block_document_by_name(stage, SlackWebhook.get_block_type_slug(), include_secrets=False)
    except ObjectNotFound:
        return None
    return AutomationCore(
        name=NAME.format(stage=stage),
        enabled=enabled,
        description="Declared by `python -m deployments apply`. Pause it here where it disturbs; that is kept.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={
                "prefect.resource.role": "deployment",
                "prefect.resource.id": told,
            },
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(block_document_id=webhook.id, subject=f"{stage}: {{{{ flow.name }}}} failed", body=BODY)
        ],
    )


def told_of(stage: str, deployed: Mapping[str, DeploymentResponse]) -> list[str]:
    """The ids of the deployments whose failed runs are told."""
    names = {f"{flow}/{stage}" for flow in TOLD}
    return sorted(f"prefect.deployment.{each.id}" for name, each in deployed.items() if name in names)
