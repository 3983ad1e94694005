"""The journalled part of a backup: its commit. What came before it left objects that nobody believes without it."""

import base64
from typing import TYPE_CHECKING

from flows.backup.settings import SignedManifest, fingerprint
from flows.catalogue.layout import MANIFEST
from flows.catalogue.manifest import Manifest
from flows.ledger import Operation, steps
from flows.records import Plan

if TYPE_CHECKING:
    from flows.world import World


class CommitPlan(Plan):
    """What is committed: the manifest's text, not yet stamped with its operation."""

    stage: str
    backup: str
    folder: str
    manifest: str


@steps("commit backup", holds=["{stage}/backups/{backup}"], forward=True, alone=True)
def commit(op: Operation, plan: CommitPlan) -> None:
    """Sign the manifest and put it: from then on the backup exists."""
    text = Manifest.model_validate_json(plan.manifest).model_copy(update={"operation": op.id}).text()
    signature = base64.b64encode(op.world.keys.sign(text)).decode()
    wanted = fingerprint(plan.manifest.encode())
    op.ensure(f"commit {plan.backup}", SignedManifest(plan.folder, text.decode(), signature), wanted)


def stamp(world: "World", plan: CommitPlan) -> int | None:
    """The operation that the committed manifest names: that of a ledger which fell silent later, or None."""
    return Manifest.model_validate_json(world.store.objects().get(plan.folder + MANIFEST)).operation
