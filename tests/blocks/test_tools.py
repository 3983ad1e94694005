import subprocess
from pathlib import Path

import pytest

from blocks.errors import Missing, Refused
from blocks.postgres.tools import Tools, server_tools, tools_for


def fake(folder: Path, major: int) -> Path:
    """Programs that only know their version: what another major looks like to the search."""
    folder.mkdir()
    for name in ("pg_dump", "pg_restore", "psql", "initdb", "pg_ctl", "postgres"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {major}.1'\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_wheels_tools_serve_a_17() -> None:
    assert tools_for(17).major == 17
    said = subprocess.run(
        [tools_for(17).path("pg_dump"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert " 17." in said


def test_the_same_major_comes_before_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{fake(tmp_path / 'b', 97)}:{fake(tmp_path / 'a', 98)}")
    assert tools_for(98) == Tools(98, tmp_path / "a")


def test_else_the_lowest_newer_one_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{fake(tmp_path / 'a', 98)}:{fake(tmp_path / 'b', 97)}")
    assert tools_for(96).major == 97


def test_a_server_newer_than_all_tools_is_refused_with_both_majors() -> None:
    with pytest.raises(Refused, match=r"server is 99, the newest pg_dump here is \d+: put .* Postgres 99 on PATH"):
        tools_for(99)


def test_a_named_folder_is_used_and_nothing_else(tmp_path: Path) -> None:
    assert tools_for(17, str(fake(tmp_path / "a", 98))).major == 98
    with pytest.raises(Refused, match=r"server is 17, the newest pg_dump in .* is 16"):
        tools_for(17, str(fake(tmp_path / "b", 16)))


def test_a_named_folder_without_tools_is_told(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=f"no pg_dump is found in {tmp_path}"):
        tools_for(17, str(tmp_path))


def test_a_server_is_run_by_its_own_major_alone() -> None:
    assert server_tools(17).major == 17
    with pytest.raises(Missing, match="no server of Postgres 99 is found here"):
        server_tools(99)


def test_debians_wrapper_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pg_wrapper").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 99.1'\n")
    (tmp_path / "pg_wrapper").chmod(0o755)
    for name in ("pg_dump", "pg_restore", "psql"):
        (tmp_path / name).symlink_to(tmp_path / "pg_wrapper")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="server is 99"):
        tools_for(99)


def test_tools_exchanged_in_place_are_seen(tmp_path: Path) -> None:
    folder = fake(tmp_path / "a", 97)
    assert tools_for(90, str(folder)).major == 97
    (folder / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 98.0'\n")
    assert tools_for(90, str(folder)).major == 98


def test_a_program_that_the_folder_lacks_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="pg_rewind of Postgres 17 is not in"):
        Tools(17, tmp_path).path("pg_rewind")
