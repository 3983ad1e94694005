"""Blocks on the Prefect server: made from the deployer's environment, compared, and saved only where they differ.

No value is ever printed. A block whose variables are not set here stays as it is on the server; one that is on neither
side is missing, and all that are missing are told at once, before anything is changed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from blocks.errors import Missing
from deployments.encryption import warning
from deployments.report import Report
from flows.redact import learn
from flows.stage import Stage
from flows.world import WantedBlock, wanted_blocks


@dataclass(frozen=True)
class PlannedBlock:
    """What will be done about one block: saved when there is something in `block`, else only told."""

    what: str
    name: str
    block: Block | None
    verb: str
    why: str = ""


@dataclass(frozen=True)
class PlannedBlocks:
    """All blocks of a stage, and what to warn of."""

    blocks: tuple[PlannedBlock, ...]
    warning: str


def plan_blocks(client: SyncPrefectClient, stage: Stage, environ: Mapping[str, str]) -> PlannedBlocks:
    """Compare every wanted block with the server. Raises Missing with all variables of all blocks that are nowhere."""
    wanted = wanted_blocks(stage, environ)
    there = {each.name + each.block.__name__: _there(client, each) for each in wanted}
    absent = [
        each for each in wanted if each.missing and not each.optional and there[each.name + each.block.__name__] is None
    ]
    if absent:
        told = "; ".join(f"{_what(each)} needs {', '.join(each.missing)}" for each in absent)
        raise Missing(
            f"these are neither on the Prefect server nor in this environment: {told}: set them and apply again"
        )
    return PlannedBlocks(
        tuple(_planned(each, there[each.name + each.block.__name__]) for each in wanted), warning(environ)
    )


def save_blocks(planned: PlannedBlocks, report: Report) -> None:
    """Save what differs."""
    for each in planned.blocks:
        if each.block is not None:
            each.block.save(each.name, overwrite=True)
            report.changed(each.verb, each.what)
        elif each.verb == "unchanged":
            report.same(each.what)
        else:
            report.kept(each.what + each.why)
    if planned.warning:
        report.warn(planned.warning)


def _planned(wanted: WantedBlock, there: Block | bool | None) -> PlannedBlock:
    what = _what(wanted)
    if wanted.missing:
        unset = ", ".join(wanted.missing)
        why = (
            f" absent, as it may be: {unset} not set here"
            if there is None
            else f" as it is on the server: {unset} not set here"
        )
        return PlannedBlock(what, wanted.name, None, "kept", why)
    block = wanted.build()
    for secret in _secrets(block):
        learn(secret)
    if isinstance(there, Block) and _values(there) == _values(block):
        return PlannedBlock(what, wanted.name, None, "unchanged")
    return PlannedBlock(what, wanted.name, block, "created" if there is None else "updated")


def _there(client: SyncPrefectClient, wanted: WantedBlock) -> Block | bool | None:
    """The block on the server; True when it is there but of an older form; None when it is not there."""
    try:
        document = client.read_block_document_by_name(wanted.name, wanted.block.get_block_type_slug())
    except ObjectNotFound:
        return None
    schema = document.block_schema
    if schema is None or schema.checksum != wanted.block._calculate_schema_checksum():  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - Prefect has no public way
        return True
    return wanted.block._from_block_document(document)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - spares a second request


def _values(block: Block) -> dict[str, object]:
    return block.model_dump(mode="json", context={"include_secrets": True}, exclude={"block_type_slug"})


def _secrets(block: Block) -> Iterator[str]:
    for value in block.__dict__.values():
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield value.get_secret_value()
        elif isinstance(value, Block):
            yield from _secrets(value)


def _what(wanted: WantedBlock) -> str:
    return f"block {wanted.block.get_block_type_slug()}/{wanted.name}"
