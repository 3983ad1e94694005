"""Where a database is and how it is entered: a plain value, the connections made from it, and what their errors mean.

The password travels in the environment of a child, in a worker's pipe and in libpq's memory: never on a command line,
in a repr or in the text of an exception. This file never waits without an end, and knows nothing of Prefect.
"""

import os
import re
import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from blocks.errors import BlockError, Missing, Refused, Unreachable

KEEPALIVE: Mapping[str, Any] = {"keepalives": 1, "keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3}
CARRIED = {"host", "port", "user", "password", "dbname", "sslmode", "sslrootcert", "connect_timeout"}
HARMLESS = {"application_name", "fallback_application_name", "client_encoding", "gssencmode", *KEEPALIVE}
PINS = "select set_config('search_path', '', false), set_config('statement_timeout', %s, false)"


@dataclass(frozen=True)
class Address:
    """A database and the role that enters it.

    `host` may be the folder of a socket; `bin_dir` is where the client tools are, empty to look for them.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    sslmode: str = "prefer"
    sslrootcert: str = ""
    connect_timeout_s: int = 10
    bin_dir: str = ""

    def __str__(self) -> str:
        """Names the place in a sentence; holds neither role nor password."""
        return f"{self.database} at {self.host}" + ("" if self.host.startswith("/") else f":{self.port}")

    def at(self, database: str) -> "Address":
        """The same server and role, another database."""
        return replace(self, database=database)

    @property
    def argument(self) -> str:
        """For the tools' `-d`, which reads `a=b` and `postgres://` as more than a name: the database alone, quoted."""
        return make_conninfo("", dbname=self.database)

    def environ(self) -> dict[str, str]:
        """What Postgres' tools read from their environment; lay it over the inherited one."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "PGSSLMODE": self.sslmode,
            "PGSSLROOTCERT": self.sslrootcert,
            "PGCONNECT_TIMEOUT": str(self.connect_timeout_s),
            "PGAPPNAME": "shipkeeper",
            "PGCLIENTENCODING": "UTF8",
            "PGGSSENCMODE": "disable",
            "PGHOSTADDR": "",  # what the operator's shell holds must not lead elsewhere
            "PGOPTIONS": "",
            "PGTARGETSESSIONATTRS": "any",
        }

    def connect(
        self, *, autocommit: bool = True, application_name: str = "shipkeeper", statement_timeout_s: float = 0
    ) -> psycopg.Connection:
        """A connection with search_path '' and the given time-out, pinned by SQL: poolers drop start-up options.

        Raises Unreachable, Refused or Missing, within about twice the connect time-out.
        """
        connection = self.open(application_name=application_name)
        with said(f"entering {self}"), _cut_off_after(connection, self.connect_timeout_s):
            connection.execute(PINS, [f"{round(statement_timeout_s * 1000)}ms"])
            connection.autocommit = autocommit
        return connection

    def open(self, *, application_name: str = "shipkeeper") -> psycopg.Connection:
        """A connection on which no SET was sent: a transaction pooler would hand that SET to others."""
        with said(f"entering {self}"):
            return psycopg.connect(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password or None,
                dbname=self.database,
                sslmode=self.sslmode,
                sslrootcert=self.sslrootcert or None,
                connect_timeout=self.connect_timeout_s,
                application_name=application_name,
                client_encoding="utf8",
                gssencmode="disable",
                autocommit=True,
                **KEEPALIVE,
            )

    def url(self) -> str:
        """What `of_url` reads, the password too: for an environment, never for a command line, a file or a log."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        more = {"sslmode": self.sslmode, "sslrootcert": self.sslrootcert, "connect_timeout": self.connect_timeout_s}
        query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in more.items() if value)
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")  # brackets: IPv6; a socket: escaped
        return f"postgresql://{login}@{host}:{self.port}/{quote(self.database, safe='')}?{query}"

    def to_json(self) -> dict[str, Any]:
        """All of it, the password too: for a worker's pipe, never for a file or a log."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Address":
        """What `to_json` gave."""
        return cls(**value)

    @classmethod
    def of_url(cls, url: str, *, bin_dir: str = "") -> "Address":
        """Of `postgresql://user:password@host:port/database?sslmode=...`; Refused, never repeated, when it is none."""
        parts = _parts(url)
        if strange := sorted(parts.keys() - CARRIED - HARMLESS):
            raise Refused(f"the database's URL asks for {', '.join(strange)}, which is not supported: take it out")
        user = parts.get("user", "postgres")
        return cls(
            host=parts.get("host", "localhost"),
            port=_number(parts.get("port", "5432"), "port"),
            user=user,
            password=parts.get("password", ""),
            database=parts.get("dbname", user),
            sslmode=parts.get("sslmode", "prefer"),
            sslrootcert=parts.get("sslrootcert", ""),
            connect_timeout_s=_number(parts.get("connect_timeout", "10"), "connect_timeout"),
            bin_dir=bin_dir,
        )


def _parts(url: str) -> dict[str, str]:
    """Raises outside the except block: libpq's message repeats the URL with its password, and would be the context."""
    try:
        return {key: str(value) for key, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        pass
    raise Refused("the database's URL cannot be read: it must be postgresql://user:password@host:port/database")


def _number(text: str, what: str) -> int:
    if not text.isdecimal():
        raise Refused(f"the database's URL must hold one number as {what}")
    return int(text)


@contextmanager
def _cut_off_after(connection: psycopg.Connection, seconds: float) -> Generator[None]:
    """A server that falls silent after the log-in: its socket is shut, so that the waiting statement fails."""
    with closing(socket.socket(fileno=os.dup(connection.fileno()))) as line:
        timer = threading.Timer(max(seconds, 1), _shut, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        except psycopg.Error:
            connection.close()
            raise
        finally:
            timer.cancel()


def _shut(line: socket.socket) -> None:
    with suppress(OSError):  # closed meanwhile: the statement came back just in time
        line.shutdown(socket.SHUT_RDWR)


# ---- what an error means

AGAIN = re.compile(
    r"08...|57P0[1235]|53300|53200|57014|55P03|40001|40P01|25P0[34]"
)  # connections, shutdown, full, time-outs, deadlocks
RIGHTS = re.compile(r"28...|42501")
ABSENT = re.compile(r"3D000|57P04")
TELLING = re.compile(r"22...|P0...|HV...|38...|39...|42601")  # the primary message of these may quote a value
AT_THE_DOOR: tuple[tuple[str, type[BlockError], str], ...] = (  # a failed log-in has no SQLSTATE: only English words
    (r"password authentication failed|no password supplied|SASL|SCRAM", Refused, "role or password are wrong"),
    (r'role ".*" does not exist', Refused, "role or password are wrong"),
    (r"no pg_hba.conf entry", Refused, "the server's pg_hba.conf lets no such connection in"),
    (r"permission denied for database", Refused, "the right CONNECT is missing on this database"),
    (r"not permitted to log in", Refused, "the right LOGIN is missing"),
    (
        r"certificate verify failed|signature failure|root certificate|does not match host name",
        Refused,
        "the server's certificate is not trusted",
    ),
    (r"does not support SSL|SSL support is not", Refused, "the server speaks no TLS"),
    (r"database .* does not exist", Missing, "there is no such database"),
    (r"not currently accepting connections", Unreachable, "the database is closed to connections"),
    (
        r"too many (clients|connections)|remaining connection slots|EMAXCONN|max clients",
        Unreachable,
        "the server is full",
    ),
    (r"starting up|shutting down|recovery mode", Unreachable, "the server is starting or stopping"),
    (r"tenant|ENOTFOUND", Refused, "the pooler knows no such project: paused, wrong host, or a role without .<ref>"),
    (r"invalid (sslmode|port|connection option)", Refused, "the address holds a value that libpq does not know"),
    (r"timeout|timed out", Unreachable, "nothing answered in time"),
    (r"could not translate host|resolve|Name or service", Unreachable, "the host's name is not known"),
    (r"refused|No such file|closed the connection|no route|unreachable", Unreachable, "nothing answers there"),
)


@contextmanager
def said(doing: str) -> Generator[None]:
    """What psycopg raises inside leaves as one of ours, cut down to what holds no value."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, doing) from None


def translate(error: psycopg.Error, doing: str) -> BlockError:
    """Which of our errors this is, by its SQLSTATE, in one sentence without values.

    Classes: https://www.postgresql.org/docs/current/errcodes-appendix.html.
    """
    code = error.sqlstate
    if code is None:
        return _without_code(error, doing)
    kind = Unreachable if AGAIN.fullmatch(code) else Missing if ABSENT.fullmatch(code) else Refused
    hint = ": grant it to this role" if RIGHTS.fullmatch(code) else ""
    return kind(f"{doing}: {_primary(error, code)} (SQLSTATE {code}){hint}")


def _primary(error: psycopg.Error, code: str) -> str:
    text = error.diag.message_primary or type(error).__name__
    return f"the server said {type(error).__name__}" if TELLING.fullmatch(code) else text.splitlines()[0][:300]


def _without_code(error: psycopg.Error, doing: str) -> BlockError:
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Refused(f"{doing}: psycopg refused it with {type(error).__name__}")
    text = str(error)
    for words, kind, meaning in AT_THE_DOOR:
        if re.search(words, text, re.IGNORECASE):
            return kind(f"{doing}: {meaning}")
    return Unreachable(f"{doing}: the connection failed or broke off")
