"""The sample service's git repository, from which the local stage's releases are built: one commit a release.

Its first commit holds what lies in deployments/local/curator; another release is another commit with other traits.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "curator"
BRANCH = "main"
AUTHOR = ("-c", "user.name=The team", "-c", "user.email=team@curator.invalid", "-c", "commit.gpgsign=false")
NOTHING_OF_OURS = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/bin:/bin"}


@dataclass(frozen=True)
class Repository:
    """A repository in a folder; `make` begins it when it is not there."""

    folder: Path

    def make(self) -> str:
        """The commit at the head of its branch, after making the first one where there was none."""
        if not (self.folder / ".git").exists():
            shutil.copytree(SOURCE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
            self._git("init", "--quiet", "--initial-branch", BRANCH)
            self._commit("feat: a curator of short videos")
        return self.head()

    def head(self) -> str:
        """The newest commit of its branch."""
        return self._git("rev-parse", BRANCH)

    def release(self, subject: str, traits: Mapping[str, object], files: Mapping[str, str] | None = None) -> str:
        """One more commit, with those traits and files; its name."""
        (self.folder / "traits.json").write_text(json.dumps(dict(traits)) + "\n")
        for name, text in (files or {}).items():
            (self.folder / name).write_text(text)
        self._commit(subject)
        return self.head()

    def _commit(self, subject: str) -> None:
        self._git("add", "--all")
        self._git(*AUTHOR, "commit", "--quiet", "--allow-empty", "--message", subject)

    def _git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.folder, env=NOTHING_OF_OURS, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
