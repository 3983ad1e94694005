"""Blocks on the Prefect server: made from the deployer's environment, compared, and saved only where they differ.

No value is ever printed. A block whose variables are not set here stays as it is on the server; one that is on neither
side is missing, and all that are missing are told at once, before anything is changed. An optional one is used as long
as it is there: when none of its variables is set any more it is an orphan, and removed only when asked to. Documents
are compared and sent as they are stored: `Block.save` and `Block.load` would work out the same schema dozens of times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound

from blocks.errors import Missing, Refused
from deployments.encryption import warning
from deployments.report import Report
from flows.effect import NotDone
from flows.parts import WantedBlock, wanted_blocks
from flows.stage import Stage
from flows.world import learn_block

PREFECTS_OWN = {"_block_document_id", "_block_document_name", "_is_anonymous"}


@dataclass(frozen=True)
class PlannedBlock:
    """What will be done about one block: sent when there is something in `block`, else told; an orphan may go."""

    what: str
    name: str
    verb: str
    block: Block | None = None
    there: BlockDocument | None = None
    why: str = ""  # it is an orphan


@dataclass(frozen=True)
class PlannedBlocks:
    """All blocks of a stage, and what to warn of."""

    blocks: tuple[PlannedBlock, ...]
    warning: str


def plan_blocks(client: SyncPrefectClient, stage: Stage, environ: Mapping[str, str]) -> PlannedBlocks:
    """Compare every wanted block with the server. Raises Missing with all variables of all blocks that are nowhere."""
    wanted = [(each, _there(client, each)) for each in wanted_blocks(stage, environ)]
    absent = [each for each, there in wanted if each.missing and not each.optional and there is None]
    if absent:
        told = "; ".join(f"{_what(each)} needs {', '.join(each.missing)}" for each in absent)
        raise Missing(f"neither on the Prefect server nor in this environment: {told}: set them and apply again")
    return PlannedBlocks(tuple(_planned(each, there) for each, there in wanted), warning(environ))


def save_blocks(client: SyncPrefectClient, planned: PlannedBlocks, report: Report, *, prune: bool) -> None:
    """Save what differs; orphans are removed with `prune`, else told."""
    for each in planned.blocks:
        if each.block is not None:
            _save(client, each.name, each.block, each.there)
            report.changed(each.verb, each.what)
        elif each.verb == "orphan" and each.there and prune:
            client.delete_block_document(each.there.id)
            report.changed("removed", each.what)
        elif each.verb == "orphan":
            report.orphan(each.what, each.why)
        elif each.verb == "unchanged":
            report.same(each.what)
        else:
            report.kept(each.what)
    if planned.warning:
        report.warn(planned.warning)


def _planned(wanted: WantedBlock, there: BlockDocument | None) -> PlannedBlock:
    what = _what(wanted)
    if wanted.optional and wanted.missing and wanted.missing == wanted.needs and there:
        unset = f"{', '.join(wanted.missing)} not set here any more"
        return PlannedBlock(what, wanted.name, "orphan", there=there, why=unset)
    if wanted.missing:
        found = "absent, as it may be" if there is None else "as it is on the server"
        return PlannedBlock(f"{what} {found}: {', '.join(wanted.missing)} not set here", wanted.name, "kept")
    block = wanted.build()
    try:
        learn_block(block)
    except NotDone as error:
        raise NotDone(f"{what}: {error}") from None
    if there is None:
        return PlannedBlock(what, wanted.name, "created", block)
    same = _form(there) == _checksum(wanted.block) and _bare(there.data) == _bare(_data(block))
    return (
        PlannedBlock(what, wanted.name, "unchanged")
        if same
        else PlannedBlock(what, wanted.name, "updated", block, there)
    )


def _there(client: SyncPrefectClient, wanted: WantedBlock) -> BlockDocument | None:
    try:
        return client.read_block_document_by_name(wanted.name, wanted.block.get_block_type_slug())
    except ObjectNotFound:
        return None


def _save(client: SyncPrefectClient, name: str, block: Block, there: BlockDocument | None) -> None:
    schema, kind = _registered(type(block))
    if there is None:
        new = BlockDocumentCreate(name=name, data=_data(block), block_schema_id=schema, block_type_id=kind)
        client.create_block_document(new)
    else:
        update = BlockDocumentUpdate(block_schema_id=schema, data=_data(block), merge_existing_data=False)
        client.update_block_document(there.id, update)


def _registered(kind: type[Block]) -> tuple[UUID, UUID]:
    """The ids of a block's schema and type on this server, made known to it first."""
    kind.register_type_and_schema()
    schema, own = kind._block_schema_id, kind._block_type_id  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - what registering found
    if schema is None or own is None:
        raise Refused(f"the Prefect server did not take the block type {kind.get_block_type_slug()}")
    return schema, own


def _data(block: Block) -> dict[str, Any]:
    """The document of a block, secrets in clear; blocks inside it lie inside the document."""
    data = block.model_dump(mode="json", by_alias=True, context={"include_secrets": True})
    return {name: value for name, value in data.items() if name != "block_type_slug"}


def _bare(value: Any) -> Any:
    """Without what Prefect adds to the blocks inside a block."""
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return {name: _bare(each) for name, each in fields.items() if name not in PREFECTS_OWN}


def _form(there: BlockDocument) -> str:
    return there.block_schema.checksum if there.block_schema else ""


@cache
def _checksum(kind: type[Block]) -> str:
    return kind._calculate_schema_checksum()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - Prefect has no public way


def _what(wanted: WantedBlock) -> str:
    return f"block {wanted.block.get_block_type_slug()}/{wanted.name}"
