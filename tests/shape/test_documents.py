"""What README and docs say is so: the table of deployments, every command, and nothing that is true of one machine alone."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools import validate

from deployments.__main__ import COMMANDS, parser
from deployments.breakglass import FLOWS
from deployments.declared import Declared, declared
from tests.shape.house import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
HOST = re.compile(
    r"https?://[^\s/]*(?:py[p]i\.|python[h]osted|npm[j]s|[d]ebian\.org)|PIP[_]INDEX_URL|--(?:extra-)?index[-]url[= ]http"
)
MACHINE = re.compile(r"(?<![\w.~}/-])/(?:work|root|Users|home)/[\w.-]+")
FORM = re.compile(
    r"[\[<…]|\.\.\.|\b(?:FLOW|COMMAND)\b"
)  # `run FLOW --stage S [--param k=v ...]` is a form, not a command
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".sql", ".lock", ".txt", ".sh", ".html", ".svg", ".service", ""}
NOT_OURS = {".git", ".venv", ".stage", "__pycache__", "node_modules", ".pytest_cache", ".ruff_cache", ".hypothesis"}


def code(text: str) -> Iterator[str]:
    """Each line of code in a document: fenced lines and spans, continued lines joined, without prompt and comment."""
    for block, span in CODE.findall(text):
        for line in (block or span).replace("\\\n", " ").splitlines():
            yield re.sub(r"\s+#\s.*", "", line).strip().removeprefix("$ ")


def commands(start: str) -> list[tuple[str, str]]:
    """Document and command, for each command that begins so (after `&&`, `;`, `(` and variables too)."""
    wanted = re.compile(rf"(?:^|[;&|(]\s*|\w=\S*\s+|bin/)({re.escape(start)}\s+[^;&|)]*)")
    return [
        (str(file.relative_to(ROOT)), found.strip())
        for file in DOCUMENTS
        for line in code(file.read_text(encoding="utf-8"))
        for found in wanted.findall(line)
    ]


def files() -> Iterator[Path]:
    for file in ROOT.rglob("*"):
        if file.is_file() and not NOT_OURS & set(file.relative_to(ROOT).parts) and file.suffix in TEXT:
            yield file


def rows(text: str) -> dict[str, tuple[str, str, str]]:
    """Deployment -> (queue, schedule, what) of the table whose head names these columns; a row may name several deployments."""
    found: dict[str, tuple[str, str, str]] = {}
    columns: list[str] = []
    for line in text.splitlines():
        cells = (
            [cell.strip() for cell in line.strip().strip("|").replace("\\|", "\0").split("|")]
            if line.strip().startswith("|")
            else []
        )
        if not cells:
            columns = []
        elif {"deployment", "queue", "schedule", "what"} <= {cell.split(" (")[0].lower() for cell in cells}:
            columns = [cell.split(" (")[0].lower() for cell in cells]
        elif columns and not set(line) <= set("|-: "):
            cell = dict(zip(columns, cells, strict=True))
            for name in re.findall(r"[\w-]+/[\w-]+", cell["deployment"]):
                found[name] = (cell["queue"].strip("`"), cell["schedule"], cell["what"])
    return found


def row(one: Declared) -> tuple[str, str, str]:
    schedule = ", ".join(f"{each.slug} `{each.cron}`" for each in one.schedules) or "-"
    return one.queue, schedule, one.description


def table(found: list[Declared]) -> str:
    """The table as the README should hold it; deployments that agree share a row."""
    agreeing: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        agreeing.setdefault(row(one), []).append(f"`{one.full_name}`")
    lines = [
        f"| {', '.join(names)} | {queue} | {schedule} | {what} |" for (queue, schedule, what), names in agreeing.items()
    ]
    return "\n".join(
        [
            "| deployment | queue | schedule (UTC) | what |",
            "| --- | --- | --- | --- |",
            *lines,
        ]
    )


@cache
def forms() -> dict[str, Mapping[str, Any]]:
    """Deployment -> the form of its flow's parameters."""
    return {one.full_name: one.schema for one in declared()}


def refused(flow: str, stage: str, given: Mapping[str, Any]) -> list[str]:
    """What the flow's form would not take of these parameters."""
    if (form := forms().get(f"{flow}/{stage}")) is None:
        return [f"no deployment {flow}/{stage}"]
    strange = [f"no parameter {name!r}" for name in given if name not in form["properties"]]
    return [*strange, *(fault.message for fault in validate({**given, "stage": stage}, dict(form)))]


def test_the_readme_lists_every_deployment_as_it_is() -> None:
    found = declared()
    told = rows((ROOT / "README.md").read_text(encoding="utf-8"))
    assert told == {one.full_name: row(one) for one in found}, (
        f"README.md's table of deployments should be\n\n{table(found)}\n"
    )


def test_the_table_shown_for_the_readme_would_pass() -> None:
    one = Declared("backup", "lab", "a.b", "Takes one.", ("lab",), {}, "lab", "default", (), {}, {})
    assert rows(table([one, replace(one, name="other")])) == {"backup/lab": row(one), "backup/other": row(one)}


@pytest.mark.parametrize(("where", "command"), commands("make") or [("no document", "make help")])
def test_make_knows_the_target_that_a_document_names(where: str, command: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [word for word in command.split()[1:] if re.fullmatch(r"[a-z][a-z0-9-]*", word)]
    assert set(named) <= targets, (
        f"{where}: `{command}` names {set(named) - targets}; the Makefile has {', '.join(sorted(targets))}"
    )


@pytest.mark.parametrize(
    ("where", "command"),
    commands("python -m deployments") or [("no document", "python -m deployments check --stage local")],
)
def test_the_command_line_takes_what_a_document_types(where: str, command: str) -> None:
    words = shlex.split(command)[3:]
    if FORM.search(command):
        assert words[0] in COMMANDS or words[0].isupper(), f"{where}: `{command}`: there is {', '.join(COMMANDS)}"
        return
    try:
        given = parser().parse_args(words)
    except SystemExit:
        pytest.fail(
            f"{where}: `{command}` is not taken by the command line; `python -m deployments --help` says what is"
        )
    if given.command == "run":
        assert given.flow in FLOWS, f"{where}: `{command}`: break glass has {', '.join(FLOWS)}"
        typed = dict(given.param) | ({"dry_run": True} if given.dry_run else {})
        assert not refused(given.flow, given.stage, typed), f"{where}: `{command}`"


@pytest.mark.parametrize(
    ("where", "command"), commands("prefect deployment run") or [("no document", "prefect deployment run backup/local")]
)
def test_the_deployment_that_a_document_runs_is_declared(where: str, command: str) -> None:
    name, *words = shlex.split(command.replace("STAGE", "production"))[3:]
    if "FLOW" in name:
        return
    assert name in forms(), f"{where}: `{command}`: prefect.yaml declares {', '.join(sorted(forms()))}"
    flow, _, stage = name.partition("/")
    pairs = [pair for word, pair in pairwise(words) if word in {"--param", "-p"}]
    given = parser().parse_args(["run", flow, "--stage", stage, *(f"--param={pair}" for pair in pairs)])
    assert not refused(flow, stage, dict(given.param)), f"{where}: `{command}`"


def test_a_parameter_that_a_document_names_is_one_of_a_flow() -> None:
    known = {name for form in forms().values() for name in form["properties"]}
    named = {
        (str(file.relative_to(ROOT)), name)
        for file in DOCUMENTS
        for line in code(file.read_text(encoding="utf-8"))
        for name in re.findall(r"--param[ =](\w+)=", line)
    }
    assert named, "no document names a parameter: the search is broken"
    assert not {(where, name) for where, name in named if name not in {*known, "k"}}


def test_what_a_flow_would_refuse_is_found() -> None:
    assert refused("restore", "production", {"which": "latest-proven", "dry_run": True}) == []
    assert refused("restore", "production", {"wich": "latest-proven"}) == ["no parameter 'wich'"]
    assert refused("status", "production", {"dry_run": True}) == ["no parameter 'dry_run'"]
    assert len(refused("backup", "production", {"kind": "dayly"})) == 1
    assert refused("backups", "production", {}) == ["no deployment backups/production"]


def test_no_file_names_a_registry_or_a_place_on_one_machine() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, hit.start()) + 1}: {hit.group()}"
        for file in files()
        for text in (file.read_text(encoding="utf-8"),)
        for hit in (*HOST.finditer(text), *MACHINE.finditer(text))
    ]
    assert not found, "true on one machine alone, so it has no place in the repository:\n" + "\n".join(found)


def test_the_search_for_places_finds_them() -> None:
    planted = "cd /" + "home/someone/x and https://files.python" + "hosted.org/a"
    assert [MACHINE.search(planted) is not None, HOST.search(planted) is not None] == [True, True]
    assert not MACHINE.search("https://example.org/work/a frames/work/b ~/work/x ${HERE}/root/x")
