"""Makes a set of keys for a stage and says where each part belongs. Nothing is kept: what is printed is there once.

Two identities open every backup: the team's, on the hosts that restore, and the escrow's, which lies in no computer.
Two keys sign: one says that a backup is ours, the other that it was proven; the public half of each is trusted for that
alone.
"""

import os
from collections.abc import Callable
from pathlib import Path

from blocks.errors import Refused
from blocks.keys import NewKeys, new_keys

FILES = ("keys.env", "team-identity.txt", "escrow-identity.txt")
PRINTED = """\
# The team's identity opens every backup. Put it into a file (mode 0600) on the hosts whose worker serves
# queue restore, and nowhere else; RESTORE_IDENTITY_FILE is that file's path.
{team}

# The escrow's identity opens every backup too. Print it, lock it away, keep it in no computer.
{escrow}

# For the environment of `python -m deployments apply`, and of break glass; never for a file of the repository.
# The two signing keys are secret, the rest is public.
{environment}"""
WRITTEN = """\
{folder}/team-identity.txt: move it to the hosts whose worker serves queue restore (RESTORE_IDENTITY_FILE)
{folder}/escrow-identity.txt: print it, lock it away, delete it here
{folder}/keys.env: for the environment of `python -m deployments apply`, and of break glass"""


def make_keys(folder: Path | None, say: Callable[[str], None] = print) -> None:
    """Print a new set, or write its secret parts to a folder (each file 0600; existing ones are refused)."""
    new = new_keys()
    if folder is None:
        say(_printed(new))
    else:
        _write(new, folder)
        say(WRITTEN.format(folder=folder))
    say(_public(new))


def _printed(new: NewKeys) -> str:
    return PRINTED.format(team=new.team_identity, escrow=new.escrow_identity, environment=_environment(new))


def _write(new: NewKeys, folder: Path) -> None:
    if there := [name for name in FILES if (folder / name).exists()]:
        raise Refused(f"{folder} holds {', '.join(there)} already: backups may need them; name another folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in zip(FILES, (_environment(new), new.team_identity, new.escrow_identity), strict=True):
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")


def _environment(new: NewKeys) -> str:
    return "\n".join(
        (
            f"BACKUP_RECIPIENTS={new.team_recipient},{new.escrow_recipient}",
            f"BACKUP_VERIFYING_KEYS={new.backup_verifying_key}",
            f"PROOF_VERIFYING_KEYS={new.proof_verifying_key}",
            f"BACKUP_SIGNING_KEY={new.backup_signing_key}",
            f"PROOF_SIGNING_KEY={new.proof_signing_key}",
        )
    )


def _public(new: NewKeys) -> str:
    return (
        "\n# Public, for the stage's TOML: pinned there, nobody can replace them by writing a block alone.\n"
        "[pinned_keys]\n"
        f'recipients = ["{new.team_recipient}", "{new.escrow_recipient}"]\n'
        f'verifying_keys = ["{new.backup_verifying_key}"]\n'
        f'proof_verifying_keys = ["{new.proof_verifying_key}"]'
    )
