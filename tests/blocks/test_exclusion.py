"""What a rule leaves out, to the letter."""

import pytest

from blocks.errors import Refused
from blocks.postgres.exclusion import data_rule, schemas_left_out


@pytest.mark.parametrize(
    ("rule", "schema", "table", "matches"),
    [
        ("public.logs", "public", "logs", True),
        ("public.logs", "public", "Logs", False),
        ("*.logs", "audit", "logs", True),
        ("*.logs", "public", "api_logs", False),
        ("public.*_logs", "public", "api_logs", True),
        ("public.log?", "public", "logs", True),
        ("public.log?", "public", "log", False),
        ('"a.b"."c*"', "a.b", "c*", True),
        ('"a.b"."c*"', "a.b", "cd", False),
        ('public."say ""hi"""', "public", 'say "hi"', True),
        ("public.a+b", "public", "a+b", True),
        ("공개.로그", "공개", "로그", True),
    ],
)
def test_a_rule_matches_by_the_letter(rule: str, schema: str, table: str, *, matches: bool) -> None:
    assert data_rule(rule)(schema, table) is matches


@pytest.mark.parametrize("rule", ["logs", "a.b.c", ""])
def test_a_rule_for_rows_names_schema_and_table(rule: str) -> None:
    with pytest.raises(Refused, match=r"write it as schema\.table"):
        data_rule(rule)


def test_a_schema_rule_that_matches_nothing_is_refused_but_for_a_providers() -> None:
    names = ["public", "timescaledb_a", "auth"]
    assert schemas_left_out(names, ["auth"], ["timescaledb_*", "vault"]) == {
        "auth": "auth",
        "timescaledb_a": "timescaledb_*",
    }
    with pytest.raises(Refused, match="'vault', but no schema"):
        schemas_left_out(names, ["vault"])
