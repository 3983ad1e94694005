"""Toy settings and step lists for the ledger's tests: a world that is a folder of files and one table.

Every write is logged with its process id, so that a test sees who wrote and when nobody did.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from pydantic import JsonValue

from blocks.errors import Refused
from blocks.postgres.address import Address
from flows.ledger import Back, Ledger, Operation, Setting, application_name, steps, still
from flows.records import Plan
from tests.parts.deaths import reconcile


@dataclass(frozen=True)
class ToyStage:
    """A stage that allows faults."""

    faults: bool = True


@dataclass(frozen=True)
class ToyWorld:
    """Where the toys lie."""

    folder: Path
    address: Address
    stage: ToyStage = ToyStage()

    def log(self, text: str) -> None:
        """One line of who did what."""
        with (self.folder / "log").open("a") as file:
            file.write(f"{os.getpid()} {text}\n")

    def written(self) -> list[str]:
        """The log."""
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def cells(self) -> dict[str, JsonValue]:
        """All files of the folder and what they hold."""
        return {file.stem: json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))}


@dataclass(frozen=True)
class ToyFile(Setting):
    """A file's content as JSON; None: there is no file."""

    name_: str

    def read(self, world: ToyWorld) -> JsonValue:
        path = self._path(world)
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, world: ToyWorld, want: JsonValue) -> None:
        still()
        world.log(f"{self.name_}={want}")
        path = self._path(world)
        if want is None:
            path.unlink(missing_ok=True)
            return
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(want))
        new.replace(path)

    def _path(self, world: ToyWorld) -> Path:
        return world.folder / f"{self.name_}.json"


@dataclass(frozen=True)
class ToyDoor(ToyFile):
    """A file that is one way: it is never put back."""

    back: ClassVar[Back] = "never"


@dataclass(frozen=True)
class ToyCrowd(ToyFile):
    """A file that stays as it is in an undo."""

    back: ClassVar[Back] = "nothing"


@dataclass(frozen=True)
class ToyRow(Setting):
    """A row of the table toy in the world's database."""

    name_: str

    def read(self, world: ToyWorld) -> JsonValue:
        with closing(world.address.connect()) as connection:
            row = connection.execute("select value from public.toy where name = %s", [self.name_]).fetchone()
            return row[0] if row else None

    def write(self, world: ToyWorld, want: JsonValue) -> None:
        world.log(f"row {self.name_}={want}")
        with closing(world.address.connect(application_name=application_name())) as connection:
            connection.execute("delete from public.toy where name = %s", [self.name_])
            if want is not None:
                connection.execute("insert into public.toy values (%s, %s)", [self.name_, want])

    def servers(self, world: ToyWorld) -> Sequence[Address]:
        return [world.address]


class ToyPlan(Plan):
    """`moves` are (file, value); those from `commit_at` on come after the commit; `bad` raises before it."""

    stage: str = "toy"
    database: str = "live"
    moves: tuple[tuple[str, int | None], ...] = ()
    commit_at: int | None = None
    bad: bool = False


@steps("toy moves", holds=["{stage}/release"])
def toy_moves(op: Operation, plan: ToyPlan) -> None:
    commit_at = len(plan.moves) if plan.commit_at is None else plan.commit_at
    for number, (name, value) in enumerate(plan.moves):
        if number == commit_at:
            _verdict(op, plan)
        op.ensure(f"move {number}", ToyFile(name), value)
    if commit_at >= len(plan.moves):
        _verdict(op, plan)


@steps("toy deploy", holds=["{stage}/release"])
def toy_deploy(op: Operation, plan: ToyPlan) -> None:
    op.ensure("start green", ToyFile("green"), "running")
    op.ensure("weights", ToyRow(f"{plan.stage} weights"), "green 100")
    op.ensure("empty", ToyCrowd("clients"), 0)
    _verdict(op, plan)
    op.ensure("stop blue", ToyDoor("blue"), None)


@steps("toy migrate", holds=["{stage}/database/{database}"], forward=True, urgent=True)
def toy_migrate(op: Operation, plan: ToyPlan) -> None:
    op.ensure("schema", ToyFile("schema"), 2)


@steps("toy prune", holds=["{stage}/backups/{database}"], forward=True, alone=True)
def toy_prune(op: Operation, plan: ToyPlan) -> None:
    for name, _ in plan.moves:
        op.ensure(f"delete {name}", ToyDoor(name), None)


@steps("toy family", holds=["{stage}/release"])
def toy_family(op: Operation, plan: ToyPlan) -> None:
    op.ensure("start green", ToyFile("green"), "running")
    op.child("migrate", toy_migrate, plan)
    _verdict(op, plan)


@steps("toy cheat", holds=["{stage}/release"])
def toy_cheat(op: Operation, plan: ToyPlan) -> None:
    """Writes behind the journal's back, so that a test of tests has something to find."""
    op.ensure("a", ToyFile("a"), 1)
    ToyFile("a").write(op.world, 2)
    op.commit("who looks?")


LISTS = {each.kind: each for each in (toy_moves, toy_deploy, toy_migrate, toy_prune, toy_family, toy_cheat)}


def _verdict(op: Operation, plan: ToyPlan) -> None:
    if plan.bad and not op.committed:
        raise Refused("error rate 4.1 %")
    op.commit("verdict: pass")


def toy_ledger(world: ToyWorld, lease_s: float = 3.0, **options: Any) -> Ledger:
    """A ledger in the world's own database; a pass of reconcile every tenth of a second."""
    options = {"tick": timedelta(seconds=0.1)} | options
    return Ledger(world.address, world, lease=timedelta(seconds=lease_s), **options)


def toy_arguments(world: ToyWorld, kind: str, plan: ToyPlan, key: str, lease_s: float = 3.0) -> dict[str, Any]:
    """What `run` and `settle` are called with."""
    common = {"folder": str(world.folder), "address": world.address.to_json(), "lease_s": lease_s}
    return common | {"kind": kind, "plan": plan.model_dump(mode="json"), "key": key}


def run(arguments: Mapping[str, Any]) -> None:
    """What a process of its own does: carry out the list `kind` with `plan` under `key`."""
    plan = ToyPlan.model_validate(arguments["plan"])
    ledger_of(arguments).carry_out(LISTS[arguments["kind"]], plan, key=arguments["key"])


def settle(arguments: Mapping[str, Any]) -> None:
    """What another does: reconcile until nothing is open."""
    reconcile(ledger_of(arguments))


def ledger_of(arguments: Mapping[str, Any]) -> Ledger:
    """The ledger that they act on."""
    return toy_ledger(world_of(arguments), arguments["lease_s"])


def world_of(arguments: Mapping[str, Any]) -> ToyWorld:
    """The world that they act in."""
    return ToyWorld(Path(arguments["folder"]), Address.from_json(arguments["address"]))
