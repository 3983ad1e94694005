"""What a process of the kill matrix does: one of the house's real step lists, in break glass with a ledger.

Or under Prefect's engine, where a test cancels it.
"""

import os
from collections.abc import Mapping
from typing import Any

from prefect import flow

from blocks.storage.objects import S3Place
from blocks.web import ask
from flows.backup.steps import CommitPlan, commit
from flows.deploy.plan import DeployPlan
from flows.deploy.steps import MigrationPlan, migrate, roll_out
from flows.effect import stage_named, without_prefect
from flows.ledger import Steps
from flows.prune.steps import PrunePlan, remove
from flows.records import Plan
from flows.restore.plan import RestorePlan
from flows.restore.steps import SwapPlan, bring_back, swap_in
from flows.rollback.plan import RollbackPlan
from flows.rollback.steps import go_back
from flows.world import World

LISTS: Mapping[str, tuple[Steps[Any], type[Plan]]] = {
    "commit": (commit, CommitPlan),
    "prune": (remove, PrunePlan),
    "restore": (bring_back, RestorePlan),
    "swap": (swap_in, SwapPlan),
    "deploy": (roll_out, DeployPlan),
    "migrate": (migrate, MigrationPlan),
    "rollback": (go_back, RollbackPlan),
}

# What costs a process its first half second, so that every fork has it: a store's client, and whom to believe over TLS.
S3Place(bucket="any", access_key="any", secret_key="any").open()
ask("http://127.0.0.1:1")


def run(arguments: Mapping[str, Any]) -> None:
    """Carry the list `kind` out with `plan` under `key`."""
    os.environ.update(arguments["environ"])
    steps, plan = LISTS[arguments["kind"]]
    with without_prefect():
        World.of(arguments["stage"]).carry_out(steps, plan.model_validate(arguments["plan"]), key=arguments["key"])


def run_under_prefect(arguments: Mapping[str, Any]) -> None:
    """The same as a flow run of the server that PREFECT_API_URL names."""
    os.environ.update(arguments["environ"])
    steps, plan = LISTS[arguments["kind"]]
    world = World(stage_named(arguments["stage"]), arguments["environ"])

    @flow(name="carried out", flow_run_name=arguments["key"])
    def carried_out() -> None:
        world.carry_out(steps, plan.model_validate(arguments["plan"]), key=arguments["key"])

    carried_out()
