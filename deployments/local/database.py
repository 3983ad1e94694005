"""The local stage's Postgres: a primary that speaks TLS and a streaming standby, both on loopback alone.

Its folder holds all of it: ports and passwords are drawn once and kept there, so a second start finds what the first
made, and goes on where a killed one stopped. Nothing outside the folder is touched.
"""

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from psycopg import sql

from blocks.errors import Missing
from blocks.postgres.address import Address, said
from blocks.postgres.cluster import Cluster, free_port
from blocks.postgres.machine import write
from blocks.postgres.tools import server_tools

MAJOR = 17
DATABASE = "app"
ROLE = "service"


@dataclass(frozen=True)
class ServiceDatabase:
    """The pair in a folder; `start` makes what is not there."""

    folder: Path

    @property
    def primary(self) -> Cluster:
        """The primary; Missing before the first start."""
        return Cluster.of(self.folder / "primary")

    @property
    def standby(self) -> Cluster:
        """The standby; Missing before the first start."""
        return Cluster.of(self.folder / "standby")

    @property
    def address(self) -> Address:
        """The service's database on the primary, as the superuser: for backups and restores."""
        return self.primary.address(DATABASE)

    @property
    def service_address(self) -> Address:
        """The same as the role that the service uses: it owns this database, reads and writes rows, no more."""
        return replace(self.address, user=ROLE, password=self._password.read_text())

    @property
    def url(self) -> str:
        """The address as a URL with its password: for an environment, never for a command line or a log."""
        return self.address.url()

    @property
    def ca(self) -> Path:
        """The certificate that the primary and the standby are verified by, as PEM."""
        return self.primary.ca

    def start(self, *, primary_port: int | None = None, standby_port: int | None = None) -> None:
        """Starts what does not run. The ports count at the first start alone; without them free ones are taken."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _there(self.folder / "primary"):
            Cluster.create(self.folder / "primary", server_tools(MAJOR), port=primary_port or free_port(), tls=True)
        self.primary.start()
        if not _there(self.folder / "standby"):
            self.primary.standby(self.folder / "standby", standby_port or free_port())
        self.standby.start()
        with said("opening the local database for its service"):
            self._open_for_the_service()

    def stop(self) -> None:
        """Stops what runs, the standby first; nothing is lost."""
        for name in ("standby", "primary"):
            with suppress(Missing):
                Cluster.of(self.folder / name).stop()

    def running(self) -> bool:
        """Whether both run."""
        return all(_there(place) and Cluster.of(place).running() for place in self._places)

    @property
    def _places(self) -> tuple[Path, Path]:
        return self.folder / "primary", self.folder / "standby"

    @property
    def _password(self) -> Path:
        return self.folder / "service-password"

    def _open_for_the_service(self) -> None:
        """The role and its database; the password in the file is the truth and is set again at each start."""
        if not self._password.exists() or not self._password.read_text():
            write(self._password, secrets.token_urlsafe(24))
        role = sql.Identifier(ROLE)
        with self.primary.address().connect() as connection:
            if not connection.execute("select 1 from pg_roles where rolname = %s", [ROLE]).fetchone():
                connection.execute(sql.SQL("create role {} login").format(role))
            connection.execute(sql.SQL("alter role {} password {}").format(role, self._password.read_text()))
            # not by owning tables: a restore leaves owners and grants out, and the service goes on after the swap
            connection.execute(sql.SQL("grant pg_read_all_data, pg_write_all_data to {}").format(role))
            if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                connection.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(DATABASE), role))


def _there(place: Path) -> bool:
    return (place / "cluster.json").exists()
