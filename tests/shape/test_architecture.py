"""The house stands as it was drawn; and each of its rules finds what it forbids."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from tests.shape import house
from tests.shape.house import Module

FLOW = '''
@procedure(name="backup")
def backup(stage: str, kind: str = "daily") -> str:
    """Takes a backup.

    Args:
        stage: which stage is operated
        kind: which kind of backup
    """
    world = World.of(stage)
    return "done"
'''

OFFENCES = [
    (house.one_way, "blocks/keys.py", "import flows.stage", "blocks/keys.py:1 imports flows.stage; imports run deployments -> flows -> blocks"),
    (house.one_way, "flows/world.py", "def of():\n    from tests.parts import store", "flows/world.py:2 imports tests.parts.store"),
    (house.one_way, "flows/world.py", "from . import stage", "imports relatively"),
    (house.downwards, "flows/backup/tasks.py", "from flows.prove.flow import prove", "the concern backup imports only what stands below it"),
    (house.downwards, "flows/restore/tasks.py", "import flows.bake.verdict", "the concern restore imports only"),
    (house.downwards, "flows/world.py", "from flows.catalogue import grades", "a shared noun imports only"),
    (house.pure, "flows/backup/policy.py", "x = 1\nimport httpx", "flows/backup/policy.py:2 imports httpx; a decision takes plain values. Move the effect to tasks.py"),
    (house.pure, "flows/catalogue/grades.py", "import os", "imports os;"),
    (house.pure, "flows/catalogue/grades.py", "from prefect import flow", "imports prefect.flow;"),
    (house.pure, "flows/verdict.py", "from flows.world import World", "imports flows.world.World;"),
    (house.pure, "flows/verdict.py", "from flows import world", "imports flows.world;"),
    (house.pure, "flows/verdict.py", "from blocks.errors import Refused", "imports blocks.errors.Refused;"),
    (house.pure, "flows/chart.py", "from urllib.request import urlopen", "imports urllib.request.urlopen;"),
    (house.clockless, "flows/catalogue/grades.py", "import datetime\nx = datetime.datetime.now(datetime.UTC)", "asks for now()"),
    (house.clockless, "flows/records.py", "def f():\n    return datetime.now(UTC)", "flows/records.py:2 asks for now()"),
    (house.prefect_in_its_place, "flows/backup/tasks.py", "@task\ndef dump(): ...", "uses @task; write @procedure or @effect"),
    (house.prefect_in_its_place, "flows/backup/tasks.py", "@procedure()\ndef dump(): ...", "declares a flow; a concern's flows stand in its flow.py"),
    (house.writes_through_the_ledger, "flows/restore/steps.py", "def f(s, w):\n    s.write(w, 'on')", "writes a Setting by itself"),
    (house.known_to_reconcile, "flows/failover/steps.py", "@steps('failover', holds=['x'])\ndef go(op, plan): ...", "Add flows.failover.steps.go to LISTS"),
    (house.environment_at_import, "blocks/keys.py", "import os\nclass K:\n    home = os.environ['HOME']", "reads the environment at import"),
    (house.environment_at_import, "flows/world.py", "def f(x=os.getenv('HOME')): ...", "reads the environment at import"),
    (house.environment_in_blocks, "blocks/keys.py", "def f():\n    return os.environ['HOME']", "reads the environment; a block takes"),
    (house.environment_in_blocks, "blocks/keys.py", "def f():\n    return os.environ.get('HOME')", "reads the environment; a block takes"),
    (house.acts_at_import, "flows/world.py", "print('hello')", "acts at import: print('hello')"),
    (house.acts_at_import, "flows/world.py", "X = open('a')", "calls open() at import"),
    (house.telling_names, "blocks/utils.py", "", "is named utils"),
    (house.telling_names, "blocks/queue.py", "", "is named like the module queue"),
    (house.short_flows, "flows/backup/flow.py", FLOW.replace("    return", "    x = 1\n" * 40 + "    return"), "has 43 lines; a flow holds order only"),
    (house.short_flows, "flows/backup/flow.py", FLOW.replace("kind: str", "a, b, c, d, kind: str"), "has 6 parameters, at most 5"),
    (house.short_flows, "flows/backup/flow.py", FLOW.replace("        kind: which kind of backup\n", ""), "parameter 'kind' is missing under `Args:`"),
    (house.short_flows, "flows/backup/flow.py", FLOW.replace("        kind: which", "        sort: which"), "`Args:` explains 'sort', which is no parameter"),
    (house.knows_its_world, "flows/backup/flow.py", FLOW.replace("    world = World.of(stage)\n", ""), "a flow's first line is"),
    (house.only_order, "flows/backup/flow.py", "class Plan: ...", "defines the class Plan; flow.py holds order only"),
    (house.only_order, "flows/backup/flow.py", "def f():\n    try:\n        g()\n    except Exception:\n        pass", "catches broadly"),
    (house.short_functions, "blocks/keys.py", "def f():\n" + "    x = 1\n" * 25, "1 of 1 functions have 25 lines or more"),
    (house.unpatched, "tests/a.py", "from unittest.mock import patch", "imports unittest.mock.patch; use a real part"),
    (house.unpatched, "tests/a.py", "def test(monkeypatch):\n    monkeypatch.setattr('a', 1)", "patches; give the code an argument"),
]  # fmt: skip

ALLOWED = [
    ("flows/backup/flow.py", FLOW),
    (
        "flows/prove/tasks.py",
        "import os\nfrom prefect import task\nfrom flows.backup.flow import backup\nfrom blocks.errors import Refused",
    ),
    (
        "flows/stage.py",
        "import tomllib\nfrom pathlib import Path\nfrom flows.verdict import Verdict\nfrom flows import verdict",
    ),
    ("flows/verdict.py", "from dataclasses import dataclass\nfrom pydantic import BaseModel"),
    ("flows/prune/steps.py", "@steps('prune', holds=['x'])\ndef remove(op, plan): ..."),
    ("flows/reconcile/tasks.py", "import flows.prune.steps\nLISTS = (flows.prune.steps.remove,)"),
    ("flows/ledger/journal.py", "def f(s, w):\n    s.write(w, 'on')"),
    ("flows/chart.py", "import html\nfrom html import escape\nimport urllib.parse\nfrom urllib.parse import quote"),
    (
        "blocks/postgres/tools.py",
        "import os\ndef f():\n    return os.environ.get('PATH', '')\nclass A:\n    environ: dict[str, str]",
    ),
    ("flows/people.py", "import sys\ndef f(x):\n    sys.stdout.write(x)"),
    (
        "blocks/stream.py",
        "import os\nLOG = getLogger(__name__)\nif __name__ == '__main__':\n    main()\ndef f(x):\n    return dict(os.environ) | x",
    ),
]


@pytest.fixture(scope="module")
def found() -> list[Module]:
    return house.modules()


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rule(rule: house.Callable[[list[Module]], list[str]], found: list[Module]) -> None:
    complaints = list(rule(found))
    assert not complaints, f"{(rule.__doc__ or '').strip()}\n" + "\n".join(complaints)


def test_no_module_has_the_name_of_a_dependency(found: list[Module]) -> None:
    project = tomllib.loads((house.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    ours = {house.re.split(r"[^\w-]", line)[0].lower() for line in wanted}
    taken = {name for name, parts in packages_distributions().items() if ours & {part.lower() for part in parts}}
    assert "psycopg" in taken
    assert not list(house.telling_names(found, frozenset(taken)))


def test_tests_patch_nothing_of_ours() -> None:
    complaints = list(house.unpatched(house.modules(packages=("tests",))))
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "path", "text", "sentence"), OFFENCES, ids=[f"{o[0].__name__}-{n}" for n, o in enumerate(OFFENCES)]
)
def test_a_rule_finds_what_it_forbids(
    rule: house.Callable[[list[Module]], list[str]], path: str, text: str, sentence: str
) -> None:
    complaints = "\n".join(rule([Module(path, text)]))
    assert sentence in complaints
    assert path in complaints


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_a_rule_leaves_good_code_alone(rule: house.Callable[[list[Module]], list[str]]) -> None:
    assert not list(rule([Module(path, text) for path, text in ALLOWED]))


@pytest.mark.parametrize("module", ["blocks.postgres.worker"])
def test_a_dump_worker_starts_without_prefect(module: str) -> None:
    asked = f"import sys, {module}; print(sorted({{name.split('.')[0] for name in sys.modules}} & {{'prefect', 'prefect_aws', 'fastapi', 'sqlalchemy'}}))"
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=house.ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", (
        f"{module} brings {done.stdout.strip()} along: every worker of a crew pays for it; keep Prefect in the block's own file"
    )
