"""Which schemas and tables a rule leaves out: psql's patterns, taken to the letter.

`*` is any text, `?` one character, double quotes make both literal; case counts. A rule for rows is `schema.table`.
A rule that matches nothing is refused, for it would be believed to protect something: but for a provider's own schemas,
which a given server may lack.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from blocks.errors import Refused

Matches = Callable[[str], bool]
_WILD = {"*": ".*", "?": "."}


def schemas_left_out(names: Iterable[str], rules: Sequence[str], provider: Sequence[str] = ()) -> dict[str, str]:
    """Each left out schema with the rule that did it."""
    known = list(names)
    found: dict[str, str] = {}
    for rule in (*rules, *provider):
        matches = _one_name(rule)
        hits = [name for name in known if matches(name)]
        if not hits and rule not in provider:
            raise Refused(f"exclude_schemas names {rule!r}, but no schema matches it: take it out or correct it")
        found |= {name: rule for name in hits if name not in found}
    return found


def data_rule(rule: str) -> Callable[[str, str], bool]:
    """Does (schema, table) match this rule?"""
    parts = _split(rule)
    if len(parts) != len(("schema", "table")):
        raise Refused(f"exclude_data names {rule!r}: write it as schema.table, say public.sessions or *.sessions")
    schema, table = map(_one_name, parts)
    return lambda schema_name, table_name: schema(schema_name) and table(table_name)


def _split(rule: str) -> list[str]:
    return re.findall(r'(?:"(?:[^"]|"")*"|[^."])+', rule)


def _one_name(rule: str) -> Matches:
    tokens = re.findall(r'"(?:[^"]|"")*"|.', rule, re.DOTALL)
    pattern = re.compile("".join(map(_expression, tokens)), re.DOTALL)
    return lambda name: pattern.fullmatch(name) is not None


def _expression(token: str) -> str:
    if token.startswith('"') and len(token) > 1:
        return re.escape(token[1:-1].replace('""', '"'))
    return _WILD.get(token, re.escape(token))
