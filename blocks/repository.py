"""A git repository as releases need it: what a name stands for, what is on a branch, clean checkouts. Read only."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks.errors import Missing, Refused, Unreachable

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
}
_NEW = "new-"
_ABANDONED_S = 3600


@dataclass(frozen=True)
class Repository:
    """A repository on this host, by its folder; git itself is asked, each time within `timeout_s`."""

    folder: Path
    timeout_s: float = 60

    def resolve(self, name: str) -> str:
        """The whole name of the commit that a commit, tag or branch stands for; Missing when it stands for none."""
        if not name or name.startswith("-"):
            raise Missing(f"{name!r} is no name of a commit")
        done = self._git(["rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"])
        if done.returncode:
            raise Missing(f"the repository {self.folder} has no commit, tag or branch {name!r}: push it first")
        return done.stdout.decode().strip()

    def has(self, commit: str) -> bool:
        """Whether the commit is there."""
        return not self._git(["cat-file", "-e", f"{commit}^{{commit}}"]).returncode

    def reachable(self, commit: str, branch: str) -> bool:
        """Whether the commit is on the branch; Missing when there is no such commit or branch."""
        commits = [self.resolve(commit), self.resolve(branch)]
        return not self._git(["merge-base", "--is-ancestor", *commits]).returncode

    def subjects(self, since: str, until: str, most: int | None = None) -> list[str]:
        """The subjects of the commits that `until` has and `since` has not, newest first: all, or so many.

        A `since` of "" has none.
        """
        span = f"{self.resolve(since)}..{self.resolve(until)}" if since else self.resolve(until)
        limit = [] if most is None else [f"--max-count={most}"]
        return self._git(["log", *limit, "--format=%s", span, "--"]).stdout.decode(errors="replace").splitlines()

    def checkout(self, commit: str, target: Path) -> None:
        """A clean copy of the commit's files as the folder `target`: whole, or not there at all."""
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-{_NEW}", dir=target.parent))
        try:
            self._unpack(commit, made)
            os.utime(made)
            _put(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def unfinished(self, folder: Path) -> list[Path]:
        """What checkouts that were killed left in a folder of checkouts: nobody needs an hour for one."""
        old = time.time() - _ABANDONED_S
        return [each for each in folder.glob(f".*-{_NEW}*") if each.stat().st_mtime < old]

    def _unpack(self, commit: str, target: Path) -> None:
        pack = target.with_name(f"{target.name}.tar")
        try:
            done = self._git(["archive", "--format=tar", f"--output={pack}", commit])
            if not done.returncode:
                done = self._run(["tar", "-x", "-f", str(pack), "-C", str(target)])
        finally:
            pack.unlink(missing_ok=True)
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip().splitlines() or ["git said nothing"]
            raise Refused(f"{commit} could not be checked out: {why[-1]}")

    def _git(self, words: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        if not self.folder.exists():
            raise Missing(f"there is no repository at {self.folder}")
        return self._run(["git", "-c", f"safe.directory={self.folder}", "-C", str(self.folder), *words])

    def _run(self, words: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run(words, env=_ENVIRONMENT, capture_output=True, timeout=self.timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{words[0]} did not answer within {self.timeout_s:g} s in {self.folder}") from None


def _put(made: Path, target: Path) -> None:
    """One rename; another checkout of the same commit may have been quicker."""
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
