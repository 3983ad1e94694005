"""The block of a database that we back up or restore: its credentials, and whether it is fit for the work.

It looks and answers; it never changes anything on the server, and it sends no SET before it knows that no transaction
pooler would hand that SET to another client.
"""

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, Self

import psycopg
from prefect.blocks.core import Block
from psycopg.rows import TupleRow
from pydantic import Field, HttpUrl, SecretStr, model_validator

from blocks.errors import Refused
from blocks.postgres.address import Address, said
from blocks.postgres.machine import write
from blocks.postgres.tools import tools_for

TlsMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresServer(Block):
    """
    A Postgres database and the role that enters it, by a URL or by fields.

    Example:
        ```python
        from blocks.postgres.server import PostgresServer

        server = PostgresServer.load("BLOCK_NAME")
        print(server.check())
        ```
    """  # noqa: D212 - Prefect reads the example from here

    _block_type_name: ClassVar[str | None] = "Postgres Server"
    _block_type_slug: ClassVar[str | None] = "postgres-server"
    _description: ClassVar[str | None] = "A Postgres database that shipkeeper backs up or restores into."
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl("https://www.postgresql.org/media/img/about/press/elephant.png")
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl("https://www.postgresql.org/docs/current/libpq-connect.html")

    url: SecretStr | None = Field(
        default=None, description="The whole address as postgresql://user:password@host:port/database; or the fields."
    )
    host: str | None = Field(default=None, description="The server's name or address, when no URL is given.")
    port: int = Field(
        default=5432, ge=1, le=65535, description="The direct or session port, never a transaction pooler's."
    )
    user: str = Field(default="postgres", description="The role to log in as; it must read every table.")
    password: SecretStr = Field(default=SecretStr(""), description="The role's password.")
    database: str = Field(default="postgres", description="The database to work on.")
    sslmode: TlsMode | None = Field(
        default=None, description="How TLS is asked for; verify-full when a CA is given, else prefer, or the URL's."
    )
    ca: str = Field(default="", description="The certificate authority to trust, as PEM text.")
    connect_timeout_s: int = Field(default=10, ge=2, le=300, description="How long a log-in may take, in seconds.")
    statement_timeout_s: int = Field(
        default=30, ge=0, description="How long a look at the server may take, in seconds."
    )
    bin_dir: str = Field(default="", description="The folder of pg_dump, pg_restore and psql; empty to look for them.")

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.url is None) == (self.host is None):
            raise ValueError("give either url or host (with user, password, database), not both")
        return self

    def address(self) -> Address:
        """The plain value that everything below Prefect works with; a CA becomes a file that goes with this process."""
        given = self._of_url() if self.url else self._of_fields()
        mode = self.sslmode or ("verify-full" if self.ca and given.sslmode in {"prefer", "require"} else given.sslmode)
        return Address(
            host=given.host,
            port=given.port,
            user=given.user,
            password=given.password,
            database=given.database,
            sslmode=mode,
            sslrootcert=_ca_file(self.ca) if self.ca else given.sslrootcert,
            connect_timeout_s=self.connect_timeout_s,
            bin_dir=self.bin_dir,
        )

    def direct(self) -> Address:
        """The address, once it is known that no transaction pooler is behind it: Refused else, before any SET."""
        address = self.address()
        with address.open() as probe:
            refuse_pooler(probe)
        return address

    def check(self, *, dumped: bool = True) -> str:
        """One sentence: what answers, as whom, and with which tools it is dumped.

        Raises Unreachable, Missing, or Refused: a wrong password, a transaction pooler, no fitting pg_dump. A database
        that is not dumped (the ledger's) needs no tools. What a backup may not read depends on the stage's rules: that
        is the survey's to say.
        """
        address = self.direct()
        with address.connect(statement_timeout_s=self.statement_timeout_s) as connection, said(f"looking at {address}"):
            facts = _row(connection, "select current_setting('server_version'), current_user, pg_is_in_recovery()")
            tls = "with TLS" if connection.info.pgconn.ssl_in_use else "without TLS"
            tools = self._tools(connection) if dumped else ""
        version, role, standby = facts
        kind = "a standby of Postgres" if standby else "Postgres"
        return f"{address} answers as {role} {tls}: {kind} {version}{tools}."

    def _tools(self, connection: psycopg.Connection) -> str:
        tools = tools_for(connection.info.server_version // 10000, self.bin_dir)
        return f", dumped with pg_dump {tools.major} of {tools.bin}"

    def _of_url(self) -> Address:
        return Address.of_url((self.url or SecretStr("")).get_secret_value())

    def _of_fields(self) -> Address:
        password = self.password.get_secret_value()
        return Address(self.host or "", self.port, self.user, password, self.database)


def refuse_pooler(connection: psycopg.Connection) -> None:
    """Refused when statements of this connection may run in other backends; sends no SET. A session pooler is let pass.

    A pooler makes up the pid that a client is told. Behind one, a second client is made to hold a backend: in session
    mode ours stays the same, in transaction mode it was free to be taken.
    """
    with said("looking for a transaction pooler"):
        first = _pid(connection)
        if first == connection.info.backend_pid:
            return
        if any(_pid_beside_another(connection) != first for _ in range(3)):
            raise Refused(
                f"port {connection.info.port} is a transaction pooler's, where snapshots and locks are lost: "
                "use the direct or the session port"
            )


def _pid_beside_another(connection: psycopg.Connection) -> int:
    info = connection.info
    with psycopg.connect(info.dsn, password=info.password, connect_timeout=10) as other:  # not autocommit: it holds one
        _pid(other)
        return _pid(connection)


def _pid(connection: psycopg.Connection) -> int:
    return int(_row(connection, "select pg_catalog.pg_backend_pid()")[0])


def _row(connection: psycopg.Connection, question: str) -> TupleRow:
    row = connection.execute(question.encode()).fetchone()
    if row is None:
        raise Refused("the server answered a question of one row with none")
    return row


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="shipkeeper-ca-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _ca_file(pem: str) -> str:
    """A certificate is public, but libpq wants it as a file; the same one is written once a process."""
    path = _folder() / f"{hashlib.sha256(pem.encode()).hexdigest()[:16]}.pem"
    if not path.exists():
        write(path.with_suffix(".new"), pem)
        path.with_suffix(".new").rename(path)
    return str(path)
