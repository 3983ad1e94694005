import re
from contextlib import closing
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks.errors import Missing, Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster, free_port
from blocks.postgres.server import PostgresServer, refuse_pooler
from blocks.postgres.tools import server_tools
from tests.parts.pooler import Pooler
from tests.parts.postgres import PASSWORD


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return PostgresServer

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's own fetches it from the net."""
        assert str(getattr(block, "_logo_url", None)).startswith("https://")


def server(address: Address, **more: object) -> PostgresServer:
    fields = {"host": address.host, "port": address.port, "user": address.user, "database": address.database}
    return PostgresServer.model_validate({**fields, "password": SecretStr(address.password), **more})


def test_the_check_says_who_answers_and_which_tools_fit(database: Address) -> None:
    assert re.fullmatch(
        rf"{database.database} at 127.0.0.1:\d+ answers as postgres without TLS: Postgres 17.\d+, "
        rf"dumped with pg_dump 17 of {server_tools(17).bin}\.",
        server(database).check(),
    )


def test_the_check_of_an_older_server_names_its_own_pg_dump(database15: Address) -> None:
    assert "dumped with pg_dump 15" in server(database15).check()


def test_the_check_fails_on_a_wrong_password_an_absent_database_and_a_closed_port(database: Address) -> None:
    with pytest.raises(Refused, match="role or password are wrong"):
        server(database, password="canary").check()
    with pytest.raises(Missing):
        server(database, database="nowhere").check()
    with pytest.raises(Unreachable):
        server(database, port=free_port()).check()


def test_the_check_fails_where_no_pg_dump_fits(database: Address, tmp_path: Path) -> None:
    for name in ("pg_dump", "pg_restore", "psql"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'x (PostgreSQL) 16.1'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(Refused, match=r"server is 17, the newest pg_dump in .* is 16"):
        server(database, bin_dir=str(tmp_path)).check()


def test_a_ca_as_text_is_enough_for_verify_full(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", server_tools(17), port=free_port(), tls=True)
    cluster.start()
    try:
        block = server(cluster.address(), ca=cluster.ca.read_text())
        assert block.address().sslmode == "verify-full"
        assert Path(block.address().sslrootcert).stat().st_mode & 0o077 == 0
        assert "answers as postgres with TLS" in block.check()
        other = Cluster.create(tmp_path / "o", server_tools(17), port=free_port(), tls=True)
        with pytest.raises(Refused, match="certificate is not trusted"):
            server(cluster.address(), ca=other.ca.read_text()).check()
    finally:
        cluster.stop()


def test_a_url_is_another_way_to_say_the_same() -> None:
    block = PostgresServer(url=SecretStr("postgresql://keeper:p%20w@db.example:6000/app?sslmode=require"))
    assert block.address() == Address("db.example", 6000, "keeper", "p w", "app", "require")


@pytest.mark.parametrize("fields", [{}, {"url": "postgresql://u:canary@h/d", "host": "h"}])
def test_a_url_or_a_host_is_wanted_and_not_both(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give either url or host"):
        PostgresServer.model_validate(fields)


def test_no_repr_holds_the_password_or_the_url(database: Address) -> None:
    blocks = [server(database), PostgresServer(url=SecretStr("postgresql://u:canary@h/d"))]
    assert PASSWORD not in repr(blocks)
    assert "canary" not in f"{blocks!r} {blocks[1].model_dump()}"


# ---- poolers


def test_a_transaction_pooler_is_refused_before_any_set_is_sent(socket_database: Address) -> None:
    with closing(Pooler(socket_database, by_transaction=True)) as pooler:
        expected = r"port \d+ is a transaction pooler's, .* use the direct or the session port"
        with pytest.raises(Refused, match=expected):
            server(pooler.way_in(), sslmode="disable").check()


def test_a_session_pooler_and_a_direct_port_are_let_pass(socket_database: Address) -> None:
    with closing(Pooler(socket_database, by_transaction=False)) as pooler:
        for address in (pooler.way_in(), socket_database):
            with address.open() as connection:
                refuse_pooler(connection)
