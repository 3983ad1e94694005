"""Postgres for the tests: one server a session of each kind, a fresh database a test."""

import secrets
from collections.abc import Generator

import pytest
from psycopg import sql

from blocks.errors import Missing
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster, free_port, owned
from blocks.postgres.tools import Tools, server_tools

KNOWS_ITERATIONS = 16
PASSWORD = 'canary-p\'w \\ "한글" @:/%?#'


@pytest.fixture(scope="session")
def postgres17() -> Generator[Cluster]:
    """The wheel's Postgres, running, on loopback with a password of odd characters."""
    yield from running(server_tools(17))


@pytest.fixture(scope="session")
def postgres15() -> Generator[Cluster]:
    """Debian's Postgres 15, running; skips where it is not installed."""
    try:
        tools = server_tools(15)
    except Missing as missing:
        pytest.skip(str(missing))
    yield from running(tools)


@pytest.fixture
def database(postgres17: Cluster) -> Generator[Address]:
    """A fresh database on postgres17, entered as the superuser; dropped afterwards."""
    address = make_database(postgres17)
    yield address
    drop_database(address)


@pytest.fixture
def database15(postgres15: Cluster) -> Generator[Address]:
    """A fresh database on postgres15, entered as the superuser; dropped afterwards."""
    address = make_database(postgres15)
    yield address
    drop_database(address)


def running(tools: Tools) -> Generator[Cluster]:
    """A running cluster that could feed a standby, without fsync; a killed test's one is ended by the next sweep."""
    with owned() as place:
        cluster = Cluster.create(place, tools, port=free_port(), password=PASSWORD)
        with (cluster.data / "shipkeeper.conf").open("a") as settings:
            settings.write("fsync = off\nmax_prepared_transactions = 10\n")
        cluster.start()
        if tools.major >= KNOWS_ITERATIONS:
            hash_once(cluster.address())
        yield cluster


def hash_once(address: Address) -> None:
    """The password, not 4096 times: that is half the CPU of a connection, and the tests make tens of thousands."""
    with address.connect() as connection:
        connection.execute("set scram_iterations = 1")
        connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(address.user), PASSWORD))


def make_database(cluster: Cluster, name: str | None = None) -> Address:
    """A new, empty database."""
    name = name or f"test_{secrets.token_hex(6)}"
    with cluster.address().connect() as connection:
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    return cluster.address(name)


def drop_database(address: Address) -> None:
    """Drops it with whoever is still in it; absent is fine."""
    with address.at("postgres").connect() as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(address.database)))
