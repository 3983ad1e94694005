"""Says what is wrong with a stage's TOML: file, line, key, what was expected, what was found. Never shows a long text.

A person who misspells a key at three in the night reads one sentence:
`production.toml line 14: [database] exclude_shemas is not known; did you mean exclude_schemas?`
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]

SHOWN_CHARACTERS = 24  # of a found text: enough for a word, too short for a key
_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"\n]*\"|'[^'\n]*')"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=")
_SYNTAX = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")
_EXPECTED = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "string_too_short": "a text that is not empty",
}
_PATTERNS = {
    "policy": 'every, "every 4th", weekly or never',
    "recipients": "a public age recipient (age1 and 58 characters)",
    "verifying_keys": "the base64 of a public Ed25519 key (44 characters)",
    "proof_verifying_keys": "the base64 of a public Ed25519 key (44 characters)",
    "prefix": "a path without a slash at its ends",
}


class StageError(Exception):
    """A stage can't be read; a sentence for each fault."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = tuple(sentences)


def syntax_complaint(error: tomllib.TOMLDecodeError, file: str) -> str:
    """What the TOML reader says, with the line in front."""
    found = _SYNTAX.fullmatch(str(error))
    if found is None:
        return f"{file} is no TOML: {error}"
    what, line, column = found.groups()
    where = f" line {line}" if line else ""
    place = f"column {column}" if line else "at its end"
    return f"{file}{where} is no TOML: {what[:1].lower()}{what[1:]} ({place})"


def complaints(error: ValidationError, model: type[BaseModel], text: str, file: str) -> list[str]:
    """A sentence for each fault that pydantic found, in the order of the file's lines."""
    lines = line_numbers(text)
    said: list[tuple[int, str]] = []
    for one in error.errors(include_url=False):
        path = tuple(step for step in one["loc"] if step != "[key]")
        line = _line_of(path, lines)
        where = f"{file} line {line}" if line else file
        said.append((line, f"{where}: {_sentence(one, path, model)}"))
    return [sentence for _, sentence in sorted(said)]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where no known word is near."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def line_numbers(text: str) -> dict[Path, int]:
    """The line on which each table and key of a TOML text begins, counted from 1; the first one of its name counts."""
    lines: dict[Path, int] = {}
    tables: dict[Path, int] = {}
    here: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            here = _steps(header[2])
            if header[1] == "[[":
                tables[here] = tables.get(here, -1) + 1
                lines.setdefault(here, number)
                here = (*here, tables[here])
            lines.setdefault(here, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault(here + _steps(assignment[1]), number)
    return lines


def _steps(dotted: str) -> Path:
    return tuple(step.strip("\"'") for step in re.findall(_KEY, dotted))


def _line_of(path: Path, lines: dict[Path, int]) -> int:
    """The line of the path, or of the nearest table round it; 0 where none is."""
    for length in range(len(path), 0, -1):
        if line := lines.get(path[:length]):
            return line
    return 0


def _sentence(error: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    value: object = error["input"]
    if not path:
        return str(error.get("ctx", {}).get("error", error["msg"]))  # of the whole stage: it names its keys itself
    name = f"[{_shown(path)}]" if len(path) == 1 and _is_table(value) else _shown(path)
    match error["type"]:
        case "extra_forbidden":
            return f"{name} is not known{nearest(str(path[-1]), _known(model, path[:-1]))}"
        case "missing":
            return f"{name} is missing"
        case "value_error":
            wanted = str(error["ctx"]["error"]) if "ctx" in error else error["msg"]
            return f"{name} wants {wanted}{_found(value)}"
        case _:
            return f"{name} wants {_expected(error, path)}{_found(value)}{_near_choice(error)}"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _shown(path: Sequence[str | int]) -> str:
    """`[database] lock_wait`, `[[parts]] 2 start`, `[pinned_keys.recipients] item 1`, `faults`."""
    if len(path) > 1 and isinstance(path[1], int):
        return " ".join([f"[[{path[0]}]]", str(path[1] + 1), *map(str, path[2:])])
    *tables, last = path
    if not tables:
        return str(last)
    return f"[{'.'.join(map(str, tables))}] {last if isinstance(last, str) else f'item {last + 1}'}"


def _expected(error: ErrorDetails, path: Path) -> str:
    context: dict[str, Any] = error.get("ctx") or {}
    match error["type"]:
        case "literal_error":
            return f"one of {context['expected']}"
        case "string_pattern_mismatch":
            return _PATTERNS.get(_pattern_name(path), f"a text like {context['pattern']}")
        case "greater_than":
            return "more than 0"
        case "greater_than_equal":
            return f"{_bound(context['ge'])} or more"
        case "less_than_equal":
            return f"{_bound(context['le'])} or less"
        case other:
            return _EXPECTED.get(other, error["msg"].removeprefix("Input should be "))


def _bound(value: object) -> str:
    return f"{value.total_seconds():.0f}s" if isinstance(value, timedelta) else str(value)


def _pattern_name(path: Path) -> str:
    if path[:2] == ("backup", "prove"):
        return "policy"
    return next((str(step) for step in reversed(path) if isinstance(step, str)), "")


def _near_choice(error: ErrorDetails) -> str:
    choices = re.findall(r"'([^']*)'", str((error.get("ctx") or {}).get("expected", "")))
    return nearest(str(error["input"]), choices)


def _found(value: object) -> str:
    """What stands there, where it is too short and plain to be a secret; else only its kind."""
    match value:
        case bool():
            return f", found {str(value).lower()}"
        case int() | float():
            return f", found {value}"
        case str() if len(value) <= SHOWN_CHARACTERS and re.fullmatch(r"[\w .:/-]*", value):
            return f', found "{value}"'
        case str():
            return f", found a text of {len(value)} characters"
        case dict():
            return ""
        case _:
            return f", found a {type(value).__name__}"


def _known(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that may stand in the table at the path."""
    inner: type[BaseModel] | None = model
    for step in path:
        if inner is None or isinstance(step, int):
            continue
        field = inner.model_fields.get(step)
        inner = _model_in(field.annotation) if field else None
    return [name for name in inner.model_fields if name != "name" or path] if inner else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
