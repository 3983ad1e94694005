"""A look before anything is done, and one snapshot for everything."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import Refused, Unreachable
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster
from blocks.postgres.snapshot import Held, hold, survey
from tests.blocks.trip import one, run
from tests.parts.processes import eventually


def waiting_for_a_lock(address: Address, application_name: str) -> bool:
    query = f"select count(*) from pg_stat_activity where application_name = '{application_name}' and wait_event_type = 'Lock'"  # noqa: S608, E501
    return one(address, query) == 1


def plain_role(address: Address, name: str) -> Address:
    run(address, f"drop role if exists {name}", f"create role {name} login password 'plain'")
    return replace(address, user=name, password="plain")


def test_a_look_shows_what_each_rule_matched(database: Address) -> None:
    run(
        database,
        "create table logs (a integer)", "create table api_logs (a integer)", "create schema audit",
        "create table audit.logs (a integer)", "create table kept (a integer primary key, b text)",
    )  # fmt: skip
    seen = survey(database, exclude_schemas=["audit"], exclude_data=["public.*logs"])
    assert [str(table) for table in seen.tables] == ["public.kept"]
    assert {(entry.rule, entry.what, f"{entry.schema}.{entry.name}") for entry in seen.excluded} == {
        ("audit", "schema", "audit.logs"),
        ("public.*logs", "data", "public.api_logs"),
        ("public.*logs", "data", "public.logs"),
    }
    assert seen.tables[0].columns == ("a", "b")
    assert seen.tables[0].key == ("a",)


def test_a_rule_that_matches_nothing_is_refused(database: Address) -> None:
    run(database, "create table api_logs (a integer)")
    with pytest.raises(Refused, match=r"'public\.logs', but no table matches"):
        survey(database, exclude_data=["public.logs"])


def test_a_rule_that_names_a_partitioned_table_means_its_partitions(database: Address) -> None:
    run(database, "create table p (a integer) partition by list (a)", "create table p1 partition of p default")
    assert [entry.name for entry in survey(database, exclude_data=["public.p"]).excluded] == ["p1"]


def test_a_look_waits_for_no_lock(database: Address) -> None:
    run(database, "create table t (a integer)")
    with database.open() as other, other.transaction():
        other.execute("lock table t in access exclusive mode")
        assert [str(table) for table in survey(database).tables] == ["public.t"]


def test_what_the_role_may_not_read_is_named_before_anything_is_done(database: Address) -> None:
    run(
        database,
        "create table seen (a integer)", "create table hidden (a integer)", "create table hides (a integer)",
        "create sequence counter", "alter table hides enable row level security", "select lo_create(0)",
    )  # fmt: skip
    reader = plain_role(database, "plain_reader")
    run(database, "grant select on seen, hides to plain_reader")
    assert set(survey(reader).missing_rights) == {
        "select on public.hidden", "bypassrls for public.hides", "select on sequence public.counter",
        "select on 1 large objects",
    }  # fmt: skip
    with pytest.raises(Refused, match=r"may not read public\.hidden"), hold(reader):
        pass
    excluded = survey(reader, exclude_data=["public.hid*"])
    assert "select on public.hidden" not in excluded.missing_rights


def test_facts_of_the_database_are_seen_by_a_plain_role_too(database: Address) -> None:
    facts = survey(plain_role(database, "plain_looker")).database
    assert facts["name"] == database.database
    assert int(str(facts["system_identifier"])) > 0
    assert (facts["encoding"], facts["server_version_num"] // 10000) == ("UTF8", 17)


def test_roles_that_policies_name_are_seen(database: Address) -> None:
    run(
        database,
        "drop role if exists tenant", "drop role if exists outsider", "create role tenant", "create role outsider",
        "create table t (a integer)", "create schema audit", "create table audit.t (a integer)",
        "create policy one on t to tenant, pg_monitor", "create policy all_of_them on t to public",
        "create policy left_out on audit.t to outsider",
    )  # fmt: skip
    try:
        assert survey(database, exclude_schemas=["audit"]).policy_roles == ("pg_monitor", "tenant")
    finally:
        run(database, "drop owned by tenant, outsider", "drop role tenant", "drop role outsider")


def test_long_transactions_and_the_lock_budget_are_seen(database: Address) -> None:
    run(database, "create table t (a integer)")
    run(database, "begin; insert into t values (1); prepare transaction 'kept'")
    seen = survey(database)
    run(database, "rollback prepared 'kept'")
    assert any("prepared transaction kept" in line for line in seen.long_transactions)
    assert (seen.locks.wanted, seen.locks.available) == (2, 64 * 110)


def test_who_keeps_a_table_locked_is_named(database: Address) -> None:
    run(database, "create table t (a integer)")
    with database.connect(application_name="the migration") as other, other.transaction():
        other.execute("lock table public.t in access exclusive mode")
        with (
            pytest.raises(
                Unreachable, match=rf"t by pid {other.info.backend_pid} \(the migration, idle in transaction"
            ),
            hold(database, lock_wait_s=0.3),
        ):
            pass


def test_a_table_made_while_the_locks_were_awaited_is_held_too(database: Address) -> None:
    run(database, "create table first (a integer)")
    held: list[Held] = []
    done = threading.Event()

    def holding() -> None:
        with hold(database, application_name="the holder") as snapshot:
            held.append(snapshot)
            done.wait(10)

    thread = threading.Thread(target=holding)
    with database.open() as other, other.transaction():
        other.execute("lock table first in access exclusive mode")
        thread.start()
        eventually(lambda: waiting_for_a_lock(database, "the holder"))
        run(database, "create table second (a integer)")
    eventually(lambda: held)
    done.set()
    thread.join()
    assert [str(table) for table in held[0].survey.tables] == ["public.first", "public.second"]


def test_rows_committed_while_the_locks_were_awaited_are_in_and_the_time_is_later(database: Address) -> None:
    run(database, "create table t (a integer)", "create table other (at timestamptz)")
    held: list[tuple[object, object]] = []

    def holding() -> None:
        with hold(database, application_name="the waiter") as snapshot:
            (count,) = next(iter(snapshot.read("copy (select count(*) from public.other) to stdout"))).split()
            held.append((count, snapshot.snapshot.time))

    thread = threading.Thread(target=holding)
    with database.open() as other, other.transaction():
        other.execute("lock table t in access exclusive mode")
        thread.start()
        eventually(lambda: waiting_for_a_lock(database, "the waiter"))
        run(database, "insert into other values (clock_timestamp())")
    thread.join()
    assert held[0][0] == b"1"
    assert held[0][1] > one(database, "select at from other")  # type: ignore[operator]


def test_sequences_are_read_after_the_snapshot(database: Address) -> None:
    run(
        database,
        'create sequence "s q"',
        "create sequence big maxvalue 9223372036854775807",
        "select nextval('\"s q\"')",
    )
    run(database, "select setval('big', 9223372036854775807)")
    with hold(database) as held:
        assert [(each.name, each.last_value, each.is_called) for each in held.sequences] == [
            ("big", "9223372036854775807", True),
            ("s q", "1", True),
        ]


def test_truncate_waits_while_the_snapshot_is_held(database: Address) -> None:
    run(database, "create table t (a integer)")
    with hold(database), pytest.raises(Exception, match="lock timeout"):
        run(database, "set lock_timeout = '100ms'; truncate t")
    run(database, "set lock_timeout = '1s'; truncate t")


def test_a_dead_holder_is_not_alive(database: Address) -> None:
    with hold(database, application_name="mortal") as held:
        held.alive()
        run(database, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mortal'")
        with pytest.raises(Unreachable, match="holder died"):
            held.alive()


def test_time_outs_of_the_role_do_not_end_the_holder(database: Address) -> None:
    hasty = plain_role(database, "hasty")
    settings = (
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "transaction_timeout",
    )
    for name in settings:
        run(database, f"alter role hasty set {name} = '200ms'")
    run(database, "create table t (a integer)", "grant select on t to hasty")
    with hold(hasty) as held:
        time.sleep(0.6)
        held.alive()


def test_a_standby_can_be_held_without_its_unlogged_tables(
    postgres17: Cluster, database: Address, tmp_path: Path
) -> None:
    run(database, "create table t (a integer)", "insert into t values (1)", "create unlogged table u (a integer)")
    standby = postgres17.standby(tmp_path / "standby")
    with (standby.data / "shipkeeper.conf").open("a") as settings:
        settings.write("max_prepared_transactions = 10\n")
    standby.start()
    try:
        address = standby.address(database.database)
        eventually(lambda: one(address, "select pg_last_wal_replay_lsn() >= '0/0'"))
        with hold(address) as held:
            assert held.snapshot.taken_from == "standby"
            assert held.snapshot.replay_lag_seconds is not None
            assert [str(table) for table in held.survey.tables] == ["public.t"]
            assert "unlogged table data on a standby: public.u" in held.survey.left_out
    finally:
        standby.stop()
