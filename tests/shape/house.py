"""The rules of the house, read from the source by ast: each rule takes modules and yields sentences, so that it can be tested too.

Nothing here imports what it judges. A complaint names file, line, what was found, why it is a rule, and the way out.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("blocks", "flows", "deployments")  # imports run from right to left

# Concerns from high to low: each may import only from lower tiers, and from the shared nouns at the root of flows/.
TIERS = (
    ("drill", "watch", "reconcile", "status"),
    ("deploy", "failover"),
    ("rollback", "prove"),
    ("restore", "bake", "provision"),
    ("backup", "verify", "prune", "environment"),
    ("catalogue", "alert"),
)
CONCERNS = frozenset(name for tier in TIERS for name in tier)
STARRED = (
    "flows.ledger",
    "flows.parts",
    "flows.world",
    "flows.effect",
    "flows.people",
)  # shared nouns that may touch the world
ACTING = ("flow", "tasks", "asking", "telling", "steps", "settings")  # the files of a concern that may touch the world
PURE = frozenset({
    "abc", "base64", "bisect", "collections", "dataclasses", "datetime", "decimal", "difflib", "enum", "fnmatch",
    "fractions", "functools", "graphlib", "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "operator",
    "re", "shlex", "statistics", "string", "textwrap", "tomllib", "types", "typing", "typing_extensions", "unicodedata",
    "uuid", "zoneinfo", "__future__", "pydantic", "pydantic_core", "binascii", "html", "urllib.parse",
})  # fmt: skip
PLACES = ("PATH", "XDG_CACHE_HOME")  # where this machine keeps programs and caches: no setting of ours
EMPTY_NAMES = frozenset({
    "utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "handler", "handlers",
})  # fmt: skip
EFFECTS = frozenset({
    "open", "connect", "Popen", "run", "check_output", "check_call", "read_text", "read_bytes", "write_text", "mkdir",
    "sleep", "now", "utcnow", "today",
})  # fmt: skip


@dataclass(frozen=True)
class Module:
    """One source file; `name` is dotted, a package's `__init__` has the package's name."""

    path: str
    text: str

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    @property
    def concern(self) -> str:
        """The concern that this file of flows/ belongs to, or nothing for the shared nouns."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 and parts[0] == "flows" and parts[1] in CONCERNS else ""

    @property
    def decides(self) -> bool:
        """Whether it must be pure: in flows/, and neither a starred noun nor one of a concern's acting files."""
        return decides(self.name)


def decides(name: str) -> bool:
    """Whether a dotted name of flows/ (a module, or something in one) belongs to the pure part."""
    parts = name.split(".")
    starred = any(name == noun or name.startswith(f"{noun}.") for noun in STARRED)
    acts = len(parts) > 2 and parts[1] in CONCERNS and parts[2] in ACTING
    return parts[0] == "flows" and not starred and not acts


def modules(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> list[Module]:
    """All source files of the packages, in order."""
    files = sorted(file for package in packages for file in (root / package).rglob("*.py"))
    return [Module(str(file.relative_to(root)), file.read_text(encoding="utf-8")) for file in files]


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, also inside functions; `from a import b` gives `a.b`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def one_way(found: Sequence[Module]) -> Iterator[str]:
    """Imports run deployments -> flows -> blocks, and never into tests."""
    order = (*PACKAGES, "tests")
    for module in found:
        for line, name in imports(module):
            target = name.split(".")[0]
            if name.startswith("."):
                yield f"{module.path}:{line} imports relatively; say where from: the whole dotted name is what a reader searches for."
            elif target in order and order.index(target) > order.index(module.top):
                yield (
                    f"{module.path}:{line} imports {name}; imports run deployments -> flows -> blocks, and none into tests. "
                    f"Pass what {module.top} needs as an argument."
                )


def downwards(found: Sequence[Module]) -> Iterator[str]:
    """A concern imports only lower concerns and the shared nouns; a shared noun imports no concern."""
    tier = {name: place for place, names in enumerate(TIERS) for name in names}
    lowest = len(TIERS)
    for module in (each for each in found if each.top == "flows"):
        mine = tier.get(module.concern, lowest)
        for line, name in imports(module):
            parts = name.split(".")
            if parts[0] != "flows" or len(parts) < 2 or parts[1] == module.concern or parts[1] not in tier:
                continue
            if tier[parts[1]] <= mine:
                who = f"the concern {module.concern}" if module.concern else "a shared noun"
                yield (
                    f"{module.path}:{line} imports {name}; {who} imports only what stands below it "
                    f"({' > '.join('/'.join(names) for names in TIERS)} > shared nouns). Move what both need down."
                )


def pure(found: Sequence[Module]) -> Iterator[str]:
    """A decision imports nothing that acts, asks or remembers."""
    for module in (each for each in found if each.decides):
        for line, name in imports(module):
            package = name.split(".")[0]
            reads_its_toml = module.name == "flows.stage" and package == "pathlib"
            if not (decides(name) or {package, name, name.rpartition(".")[0]} & PURE or reads_its_toml):
                yield (
                    f"{module.path}:{line} imports {name.removesuffix('.*')}; a decision takes plain values. "
                    "Move the effect to tasks.py (or asking.py, telling.py, steps.py, settings.py)."
                )


def clockless(found: Sequence[Module]) -> Iterator[str]:
    """A decision is told the time and the ids."""
    for module in (each for each in found if each.decides):
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in {"now", "utcnow", "today", "uuid4", "uuid1"}
                and _called_on_a_module(node)
            ):
                yield f"{module.path}:{node.lineno} asks for {node.attr}(); a decision is given `now` and its ids. Ask in tasks.py and pass it on."


def _called_on_a_module(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name | ast.Attribute) and ast.unparse(node.value).split(".")[-1] in {
        "datetime",
        "date",
        "uuid",
    }


def prefect_in_its_place(found: Sequence[Module]) -> Iterator[str]:
    """Under flows/ Prefect's own decorators are used by effect.py alone; flows live in flow.py."""
    for module in (each for each in found if each.top == "flows" and each.name != "flows.effect"):
        for node in (each for each in ast.walk(module.tree) if isinstance(each, ast.FunctionDef)):
            for name in map(_decorator, node.decorator_list):
                if name in {"flow", "task", "prefect.flow", "prefect.task"}:
                    yield f"{module.path}:{node.lineno} uses @{name}; write @procedure or @effect (flows/effect.py): they hide secrets and work in break glass."
                if name == "procedure" and module.name.split(".")[-1] != "flow":
                    yield f"{module.path}:{node.lineno} declares a flow; a concern's flows stand in its flow.py, which holds order only."


def writes_through_the_ledger(found: Sequence[Module]) -> Iterator[str]:
    """A Setting is written by the ledger alone: only it holds the lease, and writes the intent before."""
    for module in (
        each for each in found if each.top in {"flows", "deployments"} and not each.name.startswith("flows.ledger")
    ):
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "write"
                and len(node.args) + len(node.keywords) > 1
            ):
                yield f"{module.path}:{node.lineno} writes a Setting by itself; no lease and no journal guard that. Use op.ensure(name, setting, want)."


def known_to_reconcile(found: Sequence[Module]) -> Iterator[str]:
    """Every step list of the house is in LISTS of flows/reconcile/tasks.py: what a dead process left can be gone on with."""
    named = {
        name for module in found if module.name == "flows.reconcile.tasks" for name in _tuple_named("LISTS", module)
    }
    for module in (each for each in found if each.top in {"flows", "deployments"}):
        for node in (each for each in ast.walk(module.tree) if isinstance(each, ast.FunctionDef)):
            is_list = any(_decorator(each).split(".")[-1] == "steps" for each in node.decorator_list)
            if is_list and f"{module.name}.{node.name}" not in named:
                yield (
                    f"{module.path}:{node.lineno} {node.name} is a step list that reconcile does not import: an operation "
                    f"whose process died in it would stay open. Add {module.name}.{node.name} to LISTS in flows/reconcile/tasks.py."
                )


def _tuple_named(name: str, module: Module) -> list[str]:
    """The dotted names in the tuple that is assigned to that name."""
    tuples = [
        each.value
        for each in module.tree.body
        if isinstance(each, ast.Assign) and [ast.unparse(target) for target in each.targets] == [name]
    ]
    return [ast.unparse(each) for value in tuples if isinstance(value, ast.Tuple) for each in value.elts]


def environment_at_import(found: Sequence[Module]) -> Iterator[str]:
    """Importing a module needs nothing from the environment."""
    for module in found:
        for node in at_import(module.tree):
            if _reads_environment(node):
                yield f"{module.path}:{node.lineno} reads the environment at import; then nothing imports without it. Read it in a function, and pass it on."


def environment_in_blocks(found: Sequence[Module]) -> Iterator[str]:
    """A block takes what it is given (the machine's own places, PLACES, and a child's whole environment aside)."""
    for module in (each for each in found if each.top == "blocks"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Subscript | ast.Call) and _reads_one_variable(node):
                yield f"{module.path}:{node.lineno} reads the environment; a block takes what it is given. Make it a field or an argument."


def _reads_environment(node: ast.AST) -> bool:
    return (isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}) or (
        isinstance(node, ast.Name) and node.id in {"environ", "getenv"} and isinstance(node.ctx, ast.Load)
    )


def _reads_one_variable(node: ast.Subscript | ast.Call) -> bool:
    if any(repr(place) in ast.unparse(node) for place in PLACES):
        return False
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Load) and ast.unparse(node.value) in {"os.environ", "environ"}
    return ast.unparse(node.func) in {"os.getenv", "getenv", "os.environ.get", "environ.get"}


def acts_at_import(found: Sequence[Module]) -> Iterator[str]:
    """Importing a module defines names and does nothing."""
    for module in found:
        if (
            module.name == "flows.effect"
        ):  # puts the filter that hides secrets on the log handlers: importing flows must do that
            continue
        for statement in module.tree.body:
            if isinstance(statement, ast.For | ast.While | ast.With) or _bare_call(statement):
                yield f"{module.path}:{statement.lineno} acts at import: {ast.unparse(statement).splitlines()[0]}. Put it into a function."
        for node in at_import(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in EFFECTS:
                yield f"{module.path}:{node.lineno} calls {ast.unparse(node.func)}() at import. Call it where its answer is needed."


def _bare_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call | ast.Await)


def at_import(tree: ast.Module) -> Iterator[ast.expr]:
    """Every expression that is evaluated when the module is imported: not bodies of functions, not `if __name__ == ...`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [*node.decorator_list, *node.args.defaults, *(each for each in node.args.kw_defaults if each)]
        elif not isinstance(node, ast.Lambda):
            waiting += list(ast.iter_child_nodes(node))
        if isinstance(node, ast.expr):
            yield node


def telling_names(found: Sequence[Module], taken: frozenset[str] = frozenset()) -> Iterator[str]:
    """A module is named after the one thing inside, and hides neither the standard library nor a dependency."""
    for module in found:
        for name in module.name.split(".")[1:]:
            if name in EMPTY_NAMES:
                yield f"{module.path} is named {name}: that says nothing about what is inside. Name it after the one thing it holds."
            if name in sys.stdlib_module_names | taken and name != "__main__":
                yield f"{module.path} is named like the module {name} of the standard library or a dependency. Choose another word."


def short_flows(found: Sequence[Module]) -> Iterator[str]:
    """A flow reads like a runbook: at most 40 lines, five parameters, each explained where the UI's form finds it."""
    for module, function in flows(found):
        where = f"{module.path}:{function.lineno} {function.name}"
        length = _lines_of_code(function)
        if length > 40:
            yield f"{where} has {length} lines; a flow holds order only, at most 40. Move what it computes to a decision, what it does to tasks.py."
        names = [each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        if len(names) > 5:
            yield f"{where} has {len(names)} parameters, at most 5: what is the same for every run belongs into the stage's TOML."
        told = _explained(ast.get_docstring(function) or "")
        yield from (
            f"{where}: parameter {name!r} is missing under `Args:` in the docstring, so the UI's form shows it without a word."
            for name in names
            if name not in told
        )
        yield from (f"{where}: `Args:` explains {name!r}, which is no parameter." for name in told if name not in names)


def knows_its_world(found: Sequence[Module]) -> Iterator[str]:
    """A flow is given names and reads the world itself, in its first line."""
    for module, function in flows(found):
        body = [
            each for each in function.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        ]
        if not body or "World.of(stage" not in ast.unparse(body[0]):
            yield f"{module.path}:{function.lineno} {function.name}: a flow's first line is `world = World.of(stage)`: it refuses a foreign worker."


def only_order(found: Sequence[Module]) -> Iterator[str]:
    """flow.py defines no class and catches nothing broadly."""
    for module in (each for each in found if each.concern and each.name.endswith(".flow")):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                yield f"{module.path}:{node.lineno} defines the class {node.name}; flow.py holds order only. A plan is a decision: give it a file."
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            ):
                yield f"{module.path}:{node.lineno} catches broadly; a flow lets an error be its run's end. Catch the one error that you can answer."


def flows(found: Sequence[Module]) -> Iterator[tuple[Module, ast.FunctionDef]]:
    """Every function declared as a flow."""
    for module in (each for each in found if each.top == "flows"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef) and any(
                _decorator(each) == "procedure" for each in node.decorator_list
            ):
                yield module, node


def short_functions(found: Sequence[Module], longest: int = 25, share: float = 0.9) -> Iterator[str]:
    """Nine in ten functions are under 25 lines."""
    functions = [
        (module, node) for module in found for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)
    ]
    long = sorted(
        ((_lines_of_code(node), f"{module.path}:{node.lineno} {node.name}") for module, node in functions), reverse=True
    )
    long = [each for each in long if each[0] >= longest]
    if len(long) > (1 - share) * len(functions):
        shown = "; ".join(f"{where} ({lines} lines)" for lines, where in long[:10])
        yield f"{len(long)} of {len(functions)} functions have {longest} lines or more, at most one in ten may: {shown}. Give parts of them names."


def unpatched(found: Sequence[Module]) -> Iterator[str]:
    """Tests use the real thing: our own functions are never replaced."""
    for module in found:
        yield from (
            f"{module.path}:{line} imports {name}; use a real part of the local stage, or a plain value."
            for line, name in imports(module)
            if re.search(r"\bmock\b|pytest_mock", name)
        )
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "monkeypatch.setattr":
                yield f"{module.path}:{node.lineno} patches; give the code an argument instead, or a real part."


def _decorator(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _lines_of_code(function: ast.FunctionDef) -> int:
    """From `def` to the end, without the docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    text = ((docstring.end_lineno or 0) - docstring.lineno + 1) if docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - text


def _explained(docstring: str) -> list[str]:
    """Names under `Args:` of a Google docstring."""
    _, _, rest = docstring.partition("Args:\n")
    section = rest.split("\n\n")[0] if rest else ""
    return re.findall(r"^ {4}(\w+)(?: \([^)]*\))?:", section, re.MULTILINE)


RULES: tuple[Callable[[Sequence[Module]], Iterator[str]], ...] = (
    one_way,
    downwards,
    pure,
    clockless,
    prefect_in_its_place,
    writes_through_the_ledger,
    known_to_reconcile,
    environment_at_import,
    environment_in_blocks,
    acts_at_import,
    telling_names,
    short_flows,
    knows_its_world,
    only_order,
    short_functions,
)
