"""The keys of backups: who can open them (age), and who says that they are ours (Ed25519).

A paper is believed only from the key of its own role: who takes backups can't prove them, who proves can't forge them.
What encrypts, signs and verifies is in blocks; what opens backups is a file on the hosts that restore, and the block
holds its path alone: who reaches Prefect's API can read every block. Losing all identities is losing all backups.
"""

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from prefect.blocks.core import Block
from pydantic import Field, SecretStr
from pydantic_core import from_json

from blocks import stream
from blocks.errors import Missing, Refused

PaperKind = Literal["backup", "proof"]
PAPER_KINDS: tuple[PaperKind, ...] = get_args(PaperKind)
_OTHERS_MAY_READ = stat.S_IRWXG | stat.S_IRWXO


class BackupKeys(Block):
    """Encrypts backups to their recipients, and signs and verifies what says so. Opens none.

    Example:
        ```python
        from blocks.keys import BackupKeys, new_keys

        new = new_keys()
        keys = BackupKeys(
            recipients=[new.team_recipient, new.escrow_recipient],
            verifying_keys=[new.backup_verifying_key],
            proof_verifying_keys=[new.proof_verifying_key],
            signing_key=new.backup_signing_key,
        )
        signature = keys.sign(b"manifest")
        keys.verify(b"manifest", signature)
        ```
    """

    _block_type_name = "Backup Keys"
    _block_type_slug = "backup-keys"
    _description = "Public keys that encrypt backups, and the keys that sign and verify their manifests and proofs."

    recipients: list[str] = Field(
        title="Recipients",
        description="The age recipients (age1...) that every backup is encrypted to: the team's and the escrow's.",
    )
    verifying_keys: list[str] = Field(
        title="Verifying keys",
        description="The Ed25519 public keys (base64 of 32 bytes) that are trusted for backups, old ones included.",
    )
    proof_verifying_keys: list[str] = Field(
        default=[],  # in a block that was saved before the roles were parted; no proof is believed with it
        title="Verifying keys of proofs",
        description="The Ed25519 public keys (base64 of 32 bytes) that are trusted for proofs, old ones included.",
    )
    signing_key: SecretStr | None = Field(
        default=None,
        title="Signing key",
        description="The Ed25519 private key (base64 of 32 bytes) that signs here; none where nothing is signed.",
    )

    def sign(self, data: bytes) -> bytes:
        """The signature over data; Refused where there is no signing key."""
        return stream.sign(self._own(), data)

    def verify(self, data: bytes, signature: bytes) -> str:
        """The id of the key that signed data, if it is trusted for what data says it is; else Refused.

        Verify first, parse afterwards: what a paper says of itself is read only when one of all keys signed it.
        """
        signer = stream.verify([*self.verifying_keys, *self.proof_verifying_keys], data, signature)
        self._demand(_kind_of(data), signer)
        return signer

    @property
    def signing_key_id(self) -> str:
        """The short name of the key that signs here."""
        return stream.key_id(stream.public_of(self._own()))

    def check(self, signs: PaperKind = "backup") -> str:
        """Use each key once; one sentence about them, Refused where one does not work or signs what it may not."""
        stream.pack(iter([b"."]), _Nowhere(), self.recipients)
        if both := self._trusted("backup") & self._trusted("proof"):
            raise Refused(
                f"key {', '.join(both)} is trusted for backups and for proofs: name it in one of the two lists"
            )
        signer = "nothing"
        if self.signing_key is not None:
            signer = f"with {stream.verify([*self.verifying_keys, *self.proof_verifying_keys], b'.', self.sign(b'.'))}"
            self._demand(signs, self.signing_key_id)
        trusted = "; ".join(f"for {kind}s {', '.join(self._trusted(kind)) or 'nothing'}" for kind in PAPER_KINDS)
        return f"encrypts to {_counted(self.recipients)}, signs {signer}, trusts {trusted}"

    def _trusted(self, kind: PaperKind) -> set[str]:
        keys = self.verifying_keys if kind == "backup" else self.proof_verifying_keys
        return {stream.key_id(key) for key in keys}

    def _demand(self, kind: PaperKind, signer: str) -> None:
        if signer not in self._trusted(kind):
            other = next(each for each in PAPER_KINDS if each != kind)
            raise Refused(f"the signing key {signer} is trusted for {other}s, not for {kind}s")

    def _own(self) -> str:
        if self.signing_key is None:
            raise Refused("nothing can be signed here: these backup keys hold no signing key")
        return self.signing_key.get_secret_value()


class RestoreKey(Block):
    """Opens backups with age identities that are in a file of this host, never in the block.

    Example:
        ```python
        import tempfile
        from pathlib import Path

        from blocks.keys import RestoreKey, new_keys

        with tempfile.NamedTemporaryFile() as file:  # 0600 from its first byte
            Path(file.name).write_text(new_keys().team_identity)
            RestoreKey(identity_file=file.name).check()
        ```
    """

    _block_type_name = "Restore Key"
    _block_type_slug = "restore-key"
    _description = (
        "The path of the file, on the hosts that prove and restore, with the age identities that open backups."
    )

    identity_file: str = Field(
        title="Identity file",
        description="The path of the file with the age identities, one a line, readable by the worker's user alone.",
    )

    def identities(self) -> list[str]:
        """The identities; Missing when there is no such file, Refused when others may read it or it holds none."""
        lines = (line.strip() for line in self._text().splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise Refused(f"{self.identity_file} holds no age identity: it must have an AGE-SECRET-KEY-1... line")
        return found

    def check(self, recipients: Sequence[str] = ()) -> str:
        """Open a byte with each identity; Refused when none belongs to recipients, where those are given."""
        own = [stream.recipient_of(identity) for identity in self.identities()]
        for identity, recipient in zip(self.identities(), own, strict=True):
            _open_one_byte(identity, recipient)
        if recipients and not set(own) & set(recipients):
            raise Refused(f"{self.identity_file} opens no new backup: its identities belong to none of the recipients")
        return f"{self.identity_file} opens what is encrypted to {_listed(own)}"

    def _text(self) -> str:
        path = Path(self.identity_file)
        try:
            mode = path.stat().st_mode
            if mode & _OTHERS_MAY_READ:
                raise Refused(f"others than its owner may use {path} ({stat.filemode(mode)}): chmod 600 {path}")
            return path.read_text()
        except FileNotFoundError:
            raise Missing(
                f"{path} is not on this host: put the team's age identity there (mode 0600), or run where it is"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{path} cannot be read as a file of identities: {type(error).__name__}") from None


@dataclass(frozen=True)
class NewKeys:
    """A new set of keys. The secrets are here for once: none of them is stored."""

    team_identity: str = field(repr=False)
    escrow_identity: str = field(repr=False)
    team_recipient: str
    escrow_recipient: str
    backup_signing_key: str = field(repr=False)
    proof_signing_key: str = field(repr=False)
    backup_verifying_key: str
    proof_verifying_key: str


def new_keys() -> NewKeys:
    """New identities for the team and the escrow, new keys to sign backups and proofs with."""
    team, escrow = stream.new_identity(), stream.new_identity()
    backup, proof = stream.new_signing_key(), stream.new_signing_key()
    return NewKeys(
        team_identity=team,
        escrow_identity=escrow,
        team_recipient=stream.recipient_of(team),
        escrow_recipient=stream.recipient_of(escrow),
        backup_signing_key=backup,
        proof_signing_key=proof,
        backup_verifying_key=stream.public_of(backup),
        proof_verifying_key=stream.public_of(proof),
    )


class _Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)


class _Kept(bytearray):
    def write(self, data: bytes, /) -> int:
        self.extend(data)
        return len(data)


def _kind_of(data: bytes) -> PaperKind:
    """What a paper says it is, read as its own parser does: a name given twice counts as it counts there."""
    try:
        paper: Any = from_json(data)
    except ValueError:
        return "backup"
    said = paper.get("format") if isinstance(paper, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return "proof" if str(said).startswith("shipkeeper-proof/") else "backup"  # pyright: ignore[reportUnknownArgumentType]


def _open_one_byte(identity: str, recipient: str) -> None:
    sealed, opened = _Kept(), _Kept()
    facts = stream.pack(iter([b"."]), sealed, [recipient])
    if stream.unpack(iter([bytes(sealed)]), opened.write, [identity]) != facts:
        raise Refused(f"the identity of {_listed([recipient])} does not open what is encrypted to it")


def _counted(recipients: Sequence[str]) -> str:
    if len(set(recipients)) == 1:
        return (
            f"a single recipient {_listed(recipients)} (warning: add the escrow's, or one lost key loses all backups)"
        )
    return f"{len(recipients)} recipients {_listed(recipients)}"


def _listed(recipients: Sequence[str]) -> str:
    return ", ".join(f"{recipient[:10]}..." for recipient in recipients)
