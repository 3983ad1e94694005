import re

import pytest
from prefect.testing.utilities import prefect_test_harness
from pydantic import SecretStr

from blocks.postgres.address import Address
from blocks.postgres.server import PostgresServer


@pytest.mark.timeout(180)
def test_the_example_in_the_blocks_documentation_runs(database: Address, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.sub(r"```(python)?", "", PostgresServer.get_code_example() or "")
    with prefect_test_harness(server_startup_timeout=120):
        PostgresServer(url=SecretStr(database.url())).save("example")
        exec(example.replace("BLOCK_NAME", "example"), {})  # noqa: S102 - that it runs is the test
    assert "dumped with pg_dump 17" in capsys.readouterr().out
