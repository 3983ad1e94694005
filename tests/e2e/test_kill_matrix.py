"""Every real step list killed and stopped at each of its points, as plain processes in break glass with a ledger.

The points come from the lists themselves: a step added to backup's commit, prune, restore or swap is killed too.
"""

import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import sql

from blocks.postgres import databases
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.storage.s3 import S3Objects
from deployments.local.objectstore import ObjectStore
from flows.backup.flow import backup
from flows.backup.steps import CommitPlan
from flows.catalogue.tasks import Found
from flows.effect import without_prefect
from flows.ledger import Ledger
from flows.ledger.migrate import migrate
from flows.prune.steps import PrunePlan
from flows.records import Plan
from flows.restore import tasks
from flows.restore.plan import RestorePlan
from flows.restore.steps import SwapPlan
from flows.stage import Stage
from flows.world import World
from tests.parts.environment import url_of
from tests.parts.killing import Arguments, Book, Matrix
from tests.parts.nursery import Child, Nursery
from tests.parts.postgres import drop_database, make_database
from tests.parts.scene import Scene, scene
from tests.parts.store import s3_place

pytestmark = pytest.mark.timeout(600)
Promise = Callable[[Arguments], list[str]]


@dataclass(frozen=True)
class Rescue(Matrix):
    """A matrix whose processes are forked, whose points bear each try's own names, and which looks at the world too.

    `promise` is asked after each death before anybody settled, and again at the end: what must hold at every instant.
    """

    promise: Promise = lambda _: []
    tries: dict[str, Arguments] = field(default_factory=dict[str, Arguments])
    seen: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def points(self) -> list[str]:
        made: list[Arguments] = []

        def fresh(label: str) -> Arguments:
            made.append(self.fresh(label))
            return made[-1]

        found = Matrix.points(replace(self, fresh=fresh))
        for name, value in made[0]["names"].items():
            found = [point.replace(value, f"{{{name}}}") for point in found]
        return found

    def complain(self, point: str, fault: Any, tries: int = 2) -> list[str]:
        made: list[Arguments] = []

        def fresh(label: str) -> Arguments:
            made.append(self.fresh(label))
            self.tries[made[-1]["key"]] = made[-1]
            return made[-1]

        found = Matrix.complain(replace(self, fresh=fresh), point, fault, tries)
        broken = [*self.seen.get(made[-1]["key"], []), *self.promise(made[-1])]
        return found + [f"{point} {fault}: {each}" for each in broken]

    def _settle(self, book: Book) -> bool:
        self.seen[book.key] = [f"before it was settled: {each}" for each in self.promise(self.tries[book.key])]
        return Matrix._settle(self, book)

    def _start(self, arguments: Arguments, point: str = "", fault: str = "") -> Child:
        environ = {"FAULT_AT": point.format(**arguments["names"]), "FAULT": fault}
        return self.nursery.start(self.run, arguments, environ)


@pytest.fixture(scope="module")
def nursery() -> Generator[Nursery]:
    with Nursery("tests.parts.rescue") as made:
        yield made


@pytest.fixture(scope="module")
def stage(postgres17: Cluster, weed: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    with scene(postgres17, s3_place(weed), tmp_path_factory.mktemp("matrix")) as made, without_prefect():
        yield made


@pytest.fixture(scope="module")
def source(stage: Scene) -> Found:
    """The one real backup."""
    backup("test", "daily")
    return stage.bucket.found[0]


@pytest.fixture(scope="module")
def template(postgres17: Cluster) -> Generator[Address]:
    """An empty ledger that nobody enters: to be copied."""
    address = make_database(postgres17)
    migrate(address)
    yield address
    drop_database(address)


@pytest.fixture
def matrix(stage: Scene, source: Found, nursery: Nursery, template: Address) -> Generator[Callable[..., Rescue]]:
    """Makes matrices; each try has a ledger of its own, so that no reconcile settles another's."""
    ledgers: list[str] = []
    del source

    def ledger_url() -> str:
        name = f"{template.database}_{secrets.token_hex(4)}"
        ledgers.append(name)
        with template.at("postgres").connect() as connection:
            connection.execute("select pg_advisory_lock(1)")  # one copy of a template at a time
            connection.execute(
                sql.SQL("create database {} template {} strategy file_copy").format(
                    sql.Identifier(name), sql.Identifier(template.database)
                )
            )
        return url_of(template.at(name))

    def made(kind: str, plan: Callable[[], tuple[Plan, dict[str, str]]], **options: Any) -> Rescue:
        def fresh(label: str) -> Arguments:
            planned, names = plan()
            environ = {**stage.environ, "LEDGER_URL": ledger_url()}
            wanted = {"kind": kind, "plan": planned.model_dump(mode="json"), "names": names}
            return {**wanted, "environ": environ, "stage": "test", "key": f"{label} {secrets.token_hex(4)}"}

        return Rescue("tests.parts.rescue:run", fresh, ledger_of, nursery=nursery, **options)

    yield made
    for name in ledgers:
        drop_database(template.at(name))


def world_of(arguments: Arguments) -> World:
    stage = Stage.named(arguments["stage"], Scene.stages(arguments["environ"]))
    return World(stage, arguments["environ"])


def ledger_of(arguments: Arguments) -> Ledger:
    return world_of(arguments).ledger


def check(killed: Rescue, at_least: int) -> None:
    points = killed.points()
    assert len(points) >= at_least
    assert not killed.complaints(points)


# ---- the lists


def test_a_commit_may_die_anywhere(stage: Scene, source: Found, matrix: Callable[..., Rescue]) -> None:
    number = iter(range(1, 1000))

    def plan() -> tuple[Plan, dict[str, str]]:
        """A dump that is there whole, and not committed yet."""
        made = stage.again(source.id, datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=next(number)))
        found = stage.one(made)
        assert found
        assert found.manifest
        stage.objects.delete([key for key in found.keys if "manifest.json" in key])
        text = found.manifest.model_copy(update={"operation": None}).text().decode()
        return CommitPlan(stage="test", backup=made, folder=found.folder, manifest=text), {"backup": made}

    def promise(arguments: Arguments) -> list[str]:
        """It is listed whole, signed and believable, or it is not listed."""
        return stage.half(arguments["plan"]["backup"])

    check(matrix("commit", plan, promise=promise), 4)


def test_a_prune_may_die_anywhere(stage: Scene, source: Found, matrix: Callable[..., Rescue]) -> None:
    number = iter(range(1, 1000))

    def plan() -> tuple[Plan, dict[str, str]]:
        day = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=next(number))
        victim, orphan = stage.again(source.id, day, verdict="proven"), stage.again(source.id, day)
        folder = source.folder.replace(source.id, orphan)
        stage.objects.delete([key.key for key in stage.objects.list(folder) if "manifest" in key.key])
        key, upload = f"{folder}data/00001.public.x.copy.zst.age", unfinished(stage, folder)
        made = PrunePlan(
            stage="test",
            database=stage.database.database,
            victims=(victim,),
            orphans=(orphan,),
            uploads=((key, upload),),
        )
        return made, {"victim": victim, "orphan": orphan, "upload": upload}

    def promise(arguments: Arguments) -> list[str]:
        """The victim is whole or not listed; the one that stays is whole."""
        return [*stage.half(arguments["plan"]["victims"][0]), *stage.half(source.id)]

    check(matrix("prune", plan, promise=promise), 13)


def unfinished(stage: Scene, folder: str) -> str:
    """An upload that nobody finishes."""
    objects = stage.objects
    assert isinstance(objects, S3Objects)
    key = f"{stage.place.prefix}/{folder}data/00001.public.x.copy.zst.age"
    answer = objects._s3.create_multipart_upload(Bucket=stage.place.bucket, Key=key)  # pyright: ignore[reportPrivateUsage] - no Upload of ours leaves one behind
    return str(answer["UploadId"])


def restore_plan(stage: Scene, source: Found, name: str = "") -> RestorePlan:
    world = stage.world
    chosen = tasks.find(world, source.id, "matrix")
    new = name or f"{stage.database.database}_{secrets.token_hex(4)}"
    return tasks.make_plan(world, chosen, into=new, swap="", key="matrix")


def whole_or_unmarked(stage: Scene) -> Promise:
    def promise(arguments: Arguments) -> list[str]:
        name = arguments["plan"]["new"]
        mark = databases.mark(stage.database, name)
        if mark is None or not mark.startswith("shipkeeper: restored"):
            return []
        with stage.database.at(name).connect() as connection:
            row = connection.execute("select count(*), max(id) from public.users").fetchone()
        return [] if row == (500, 500) else [f"{name} is marked as restored and holds {row}"]

    return promise


def into_another(stage: Scene, source: Found) -> Callable[[Arguments], Arguments]:
    def following(arguments: Arguments) -> Arguments:
        plan = {**arguments["plan"], "new": f"{stage.database.database}_{secrets.token_hex(4)}"}
        good = {**plan, "manifest_sha256": source.manifest_sha256}
        return {**arguments, "plan": good, "key": f"{arguments['key']}-next"}

    return following


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_restore_may_die_anywhere(stage: Scene, source: Found, matrix: Callable[..., Rescue], bad: bool) -> None:
    """The bad one finds another manifest than the plan's, and is undone."""
    planned = restore_plan(stage, source)

    def plan() -> tuple[Plan, dict[str, str]]:
        new = f"{stage.database.database}_{secrets.token_hex(4)}"
        wrong = {"manifest_sha256": "0" * 64} if bad else {}
        return planned.model_copy(update={"new": new, **wrong}), {"new": new}

    following = into_another(stage, source)
    check(matrix("restore", plan, promise=whole_or_unmarked(stage), following=following), 7 if bad else 8)


def test_a_swap_may_die_anywhere(stage: Scene, matrix: Callable[..., Rescue]) -> None:
    def plan() -> tuple[Plan, dict[str, str]]:
        live = f"{stage.database.database}_{secrets.token_hex(4)}"
        for name, text in ((live, "old"), (f"{live}_new", "new")):
            with stage.database.at("postgres").connect() as connection:
                connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
            with stage.database.at(name).connect() as connection:
                connection.execute(sql.SQL("create table public.t as select {} as text").format(sql.Literal(text)))
        names = {"live": live, "new": f"{live}_new", "old": f"{live}_old"}
        made = SwapPlan(stage="test", server="", backup="any", approved_by="anna", **names)
        return made, {"new": names["new"], "old": names["old"], "live": live}

    def promise(arguments: Arguments) -> list[str]:
        """There is always a live one, and it is one of the two."""
        with stage.database.at(arguments["plan"]["live"]).connect() as connection:
            row = connection.execute("select text from public.t").fetchone()
        return [] if row in {("old",), ("new",)} else [f"the live one holds {row}"]

    def following(arguments: Arguments) -> Arguments:
        """The same once more where it was undone, else back again."""
        plan = dict(arguments["plan"])
        if plan["old"] in stage.databases():
            databases.set_open(stage.database, plan["old"], allow=True)
            plan |= {"new": plan["old"], "old": plan["new"]}
        return {**arguments, "plan": plan, "key": f"{arguments['key']}-next"}

    check(matrix("swap", plan, promise=promise, following=following), 8)
