"""What a process of the kill matrix does: one of the house's real step lists, in break glass with a ledger."""

import os
from collections.abc import Mapping
from typing import Any

from flows.backup.steps import CommitPlan, commit
from flows.effect import without_prefect
from flows.ledger import Steps
from flows.prune.steps import PrunePlan, remove
from flows.records import Plan
from flows.restore.plan import RestorePlan
from flows.restore.steps import SwapPlan, bring_back, swap_in
from flows.world import World

LISTS: Mapping[str, tuple[Steps[Any], type[Plan]]] = {
    "commit": (commit, CommitPlan),
    "prune": (remove, PrunePlan),
    "restore": (bring_back, RestorePlan),
    "swap": (swap_in, SwapPlan),
}


def run(arguments: Mapping[str, Any]) -> None:
    """Carry the list `kind` out with `plan` under `key`."""
    os.environ.update(arguments["environ"])
    steps, plan = LISTS[arguments["kind"]]
    with without_prefect():
        World.of(arguments["stage"]).carry_out(steps, plan.model_validate(arguments["plan"]), key=arguments["key"])
