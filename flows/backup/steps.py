"""The journalled part of a backup: its commit. Everything before it left objects that nobody believes without a manifest."""

import base64
import hashlib

from flows.backup.settings import SignedManifest
from flows.catalogue.manifest import Manifest
from flows.ledger import Operation, steps
from flows.records import Plan


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
    op.ensure(
        f"commit {plan.backup}", SignedManifest(plan.folder, text.decode(), signature), hashlib.sha256(text).hexdigest()
    )
