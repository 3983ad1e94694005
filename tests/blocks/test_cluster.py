import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from blocks.errors import Missing, Refused
from blocks.postgres import machine
from blocks.postgres.address import Address
from blocks.postgres.cluster import Cluster, free_port, scratch, sweep_scratches
from blocks.postgres.template import template
from blocks.postgres.tools import server_tools
from tests.parts.postgres import PASSWORD

ROOT = Path(__file__).parents[2]
HOLDS_A_SCRATCH = """
import sys, time
from pathlib import Path
from blocks.postgres.cluster import scratch
with scratch(17, Path(sys.argv[1])) as cluster:
    print(cluster.folder, flush=True)
    time.sleep(60)
"""


def asked(cluster: Cluster, question: str) -> object:
    with cluster.address().connect() as connection:
        row = connection.execute(question.encode()).fetchone()
        return row and row[0]


def told(cluster: Cluster, statement: str) -> None:
    with cluster.address().connect() as connection:
        connection.execute(statement.encode())


def until(holds: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_majors_serve_side_by_side(database: Address, database15: Address) -> None:
    majors: list[int] = []
    for address in (database, database15):
        with address.connect() as connection:
            majors.append(connection.info.server_version // 10000)
    assert majors == [17, 15]


def test_two_scratches_of_one_major_know_nothing_of_each_other(tmp_path: Path) -> None:
    with scratch(17, tmp_path) as one, scratch(17, tmp_path) as other:
        told(one, "create database here")
        assert asked(one, "select count(*) from pg_database where datname = 'here'") == 1
        assert asked(other, "select count(*) from pg_database where datname = 'here'") == 0


def test_a_scratch_is_up_without_fsync_or_a_port_and_gone_afterwards(tmp_path: Path) -> None:
    with scratch(17, tmp_path) as cluster:
        assert cluster.running()
        assert asked(cluster, "select current_setting('fsync') || current_setting('listen_addresses')") == "off"
    assert not list(tmp_path.iterdir())
    assert not cluster.running()


def test_a_scratch_of_a_major_that_is_not_here_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no server of Postgres 99 is found here"), scratch(99, tmp_path):
        pass


def test_a_folder_with_a_long_or_strange_name_still_gets_a_socket(tmp_path: Path) -> None:
    for name in ("x" * 120, 'it\'s, "한글" b\\n'):
        with scratch(17, tmp_path / name) as cluster:
            assert asked(cluster, "select 1") == 1
        assert not cluster.socket_folder.exists()


def test_a_stopped_cluster_leaves_nothing_outside_its_folder(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / ("x" * 120), server_tools(17))
    cluster.start()
    assert cluster.socket_folder.exists()
    cluster.stop()
    assert not cluster.socket_folder.exists()


def test_a_killed_owners_scratch_is_swept_by_the_next_one(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_SCRATCH, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    left = Path(owner.stdout.readline().strip())
    assert sweep_scratches(tmp_path) == []
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert machine.postmaster(left / "data")
    assert sweep_scratches(tmp_path) == [left]
    assert machine.postmaster(left / "data") is None
    assert not list(tmp_path.iterdir())


def test_it_starts_again_after_a_kill_and_has_kept_what_was_committed(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", server_tools(17))
    cluster.start()
    try:
        told(cluster, "create table public.kept as select 7 as x")
        pid = machine.postmaster(cluster.data)
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: not cluster.running())
        cluster.start()
        assert asked(cluster, "select x from public.kept") == 7
    finally:
        cluster.stop()


def test_a_pid_file_that_names_a_stranger_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", server_tools(17))
    (cluster.data / "postmaster.pid").write_text(f"{os.getpid()}\n{cluster.data}\n")
    assert not cluster.running()
    cluster.start()
    cluster.start()  # again changes nothing
    assert cluster.running()
    cluster.stop()
    cluster.stop()
    assert not cluster.running()


def test_stop_does_not_wait_for_clients(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", server_tools(17))
    cluster.start()
    with cluster.address().connect():
        cluster.stop()
    assert not cluster.running()


def test_a_port_that_is_taken_is_told_with_the_log(postgres17: Cluster, tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", server_tools(17), port=postgres17.port)
    with pytest.raises(Refused, match=r"wanted to start Postgres in .* failed, .*: see .*/log"):
        cluster.start()


def test_a_port_is_never_opened_without_a_password(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", server_tools(17), port=free_port())
    assert len(cluster.password) > 20
    assert cluster.password not in repr(cluster)
    assert (cluster.folder / "cluster.json").stat().st_mode & 0o077 == 0
    cluster.start()
    try:
        assert asked(cluster, "select current_user") == "postgres"
        with pytest.raises(Refused):
            Address.from_json({**cluster.address().to_json(), "password": "wrong"}).connect()
    finally:
        cluster.stop()


def test_a_second_process_finds_the_cluster_again_and_makes_no_other_there(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", server_tools(17), port=free_port(), password=PASSWORD)
    assert Cluster.of(tmp_path / "c") == cluster
    with pytest.raises(Refused, match="holds a cluster already"):
        Cluster.create(tmp_path / "c", server_tools(17))


def test_a_half_made_cluster_is_no_cluster_and_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "c" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("17\n")
    with pytest.raises(Missing):
        Cluster.of(tmp_path / "c")
    cluster = Cluster.create(tmp_path / "c", server_tools(17))
    cluster.start()
    cluster.stop()


def test_a_standby_streams_a_row_over_tls(tmp_path: Path) -> None:
    primary = Cluster.create(tmp_path / "primary", server_tools(17), port=free_port(), password=PASSWORD, tls=True)
    primary.start()
    standby = primary.standby(tmp_path / "standby", free_port())
    standby.start()
    try:
        told(primary, "create table public.t as select 7 as x")
        until(
            lambda: asked(standby, "select to_regclass('public.t')") and asked(standby, "select x from public.t") == 7
        )
        assert asked(standby, "select pg_is_in_recovery()") is True
        assert asked(primary, "select active from pg_replication_slots") is True
        assert asked(primary, "select bool_and(ssl) from pg_stat_ssl join pg_stat_replication using (pid)") is True
        assert PASSWORD not in (standby.data / "postgresql.auto.conf").read_text()
    finally:
        standby.stop()
        primary.stop()


def test_the_template_is_made_once_by_two_at_a_time_and_anew_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make = (
        "from blocks.postgres.template import *; from blocks.postgres.tools import *; print(template(server_tools(17)))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", make], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    made = {process.communicate()[0].strip() for process in both}
    assert made == {str(template(server_tools(17)))}
    control = template(server_tools(17)) / "global" / "pg_control"
    control.write_bytes(b"")
    assert (template(server_tools(17)) / "global" / "pg_control").stat().st_size == 8192
    assert not list(tmp_path.rglob("making-*"))


TELLS_WHO_RUNS_IT = """
import sys
from pathlib import Path
from blocks.postgres import machine
from blocks.postgres.cluster import scratch
with scratch(17, Path(sys.argv[1])) as cluster:
    print(machine.as_user()[:1], cluster.data.stat().st_uid, cluster.address().connect().execute("select 1").fetchone())
"""
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
STILL_PASSES_FOLDERS = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]  # python may lie below /root
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def who_runs_it(folder: Path, before: Sequence[str] = (), **environment: str) -> str:
    command = [*before, sys.executable, "-W", "ignore", "-c", TELLS_WHO_RUNS_IT, str(folder)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


@only_root
def test_root_runs_it_in_a_user_namespace_so_that_the_files_stay_roots(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-U", "true"], check=False).returncode:
        pytest.skip("this kernel gives no user namespaces")
    assert who_runs_it(tmp_path) == "('unshare',) 0 (1,)\n"


@only_root
def test_root_without_user_namespaces_runs_it_as_nobody(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("setpriv", "true"):
        (programs / name).symlink_to(shutil.which(name) or name)
    assert who_runs_it(tmp_path, PATH=str(programs)) == "('setpriv',) 65534 (1,)\n"


@only_root
def test_an_ordinary_user_runs_it_as_itself(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert who_runs_it(tmp_path, [*NOBODY, *STILL_PASSES_FOLDERS]) == "() 65534 (1,)\n"
