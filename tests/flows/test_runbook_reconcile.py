"""The SQL of the reconcile runbook does what it says, on a real ledger."""

import re
from pathlib import Path

import pytest

from blocks.postgres.address import Address
from flows.world import World

RUNBOOK = Path(__file__).resolve().parents[2] / "docs" / "runbooks" / "reconcile.md"
BEGIN = """insert into ledger.operation (key, kind, state, plan, digest, holder, lease_s, expires_at)
    values ('k', 'restore', %s, '{}', 'd', 'b:n:1:1:-x', 3, now() - interval '1 s') returning id, token"""
STEP = """insert into ledger.step (operation, name, position, setting, arguments, want, before, back, token)
    values (%s, %s, %s, 'S', '{}', '1', '0', 'before', %s)"""


def sql(first: str) -> str:
    blocks = re.findall(r"```sql\n(.*?)```", RUNBOOK.read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if block.startswith(first))


@pytest.fixture
def operation(world: World, ledger_database: Address, request: pytest.FixtureRequest) -> int:
    """An operation of a dead process with one step done and one in doubt, holding a database."""
    with ledger_database.connect() as connection:
        row = connection.execute(BEGIN, [request.param]).fetchone()
        assert row is not None
        connection.execute("insert into ledger.hold values ('test/database/app', default, %s)", [row[0]])
        for position, name in enumerate(("first", "second"), 1):
            connection.execute(STEP, [row[0], name, position, row[1]])
            if name == "first":
                connection.execute("update ledger.step set state = 'done' where name = 'first'")
    return row[0]


@pytest.mark.parametrize(("operation", "ending"), [("acting", "undone"), ("committed", "done")], indirect=["operation"])
def test_an_operation_is_settled_by_hand(world: World, ledger_database: Address, operation: int, ending: str) -> None:
    with ledger_database.connect() as connection:
        held = connection.execute(sql("select o.id").encode()).fetchall()
        assert [(row[0], row[4], row[7], row[8]) for row in held] == [
            (operation, False, ["test/database/app"], "second")
        ]
        assert connection.execute(sql("update").replace("'KEY'", "'k'").encode()).fetchone() is not None
        connection.execute(sql("-- settle by hand").replace("4711", str(operation)).encode())
        assert connection.execute("select count(*) from ledger.hold").fetchone() == (0,)
        told = connection.execute(sql("select at").replace("4711", str(operation)).encode()).fetchall()
    assert told[-1][2] == f"{ending}: anna: put right by hand"
    assert [(each.state, each.reason) for each in world.ledger.history()] == [(ending, "anna: put right by hand")]
