"""What people see is no part of the work: a Prefect server that is away costs neither a dump nor a report."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import people

pytestmark = pytest.mark.filterwarnings("ignore:Artifact creation outside:FutureWarning")
NOWHERE = "http://127.0.0.1:9/api"


def test_a_server_that_is_away_ends_no_work_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        bar = people.Progress("bar", "A bar")
        bar.show(1.0, "all of it")
    assert caplog.text.count("the progress is not shown (ConnectError)") == 1


def test_a_report_that_nobody_can_keep_is_said_and_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        people.report("page", "# Page", "A page")
        people.table("rows", [{"a": 1}], "Rows")
    assert "page is not kept as a page (ConnectError)" in caplog.text
    assert "rows is not kept as a page (ConnectError)" in caplog.text


@pytest.mark.usefixtures("glass")
def test_a_table_has_columns_on_a_terminal_or_lines_where_it_is_wide(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flows")
    people.table("rows", [{"name": "사용자", "why": "", "rows": 5}, {"name": "b", "why": None, "of": None}], "Two")
    people.table("rows", [{"name": "a", "why": "x" * 200, "rows": None}], "One")
    people.table("rows", [{"subject": "fix:\n\x1b[2Jit", "tags": ["a"]}], "Untrusted")
    people.table("rows", [], "None")
    assert caplog.messages == [
        "Two\nname    rows\n사용자  5\nb",
        f"One\n\na\n  why: {'x' * 200}",
        "Untrusted\nsubject     tags\nfix: [2Jit  ['a']",
        "None\n",
    ]
