"""The variables of a deployer whose parts are the tests' own: what `apply`, `check` and break glass read."""

from pathlib import Path
from urllib.parse import quote

from blocks.keys import NewKeys
from blocks.postgres.address import Address
from blocks.storage.objects import S3Place


def environment(
    database: Address, ledger: Address, keys: NewKeys, identity: Path, place: S3Place | None = None
) -> dict[str, str]:
    """Everything that a stage needs; without a place its store is a directory."""
    return {
        "DATABASE_URL": url_of(database),
        "LEDGER_URL": url_of(ledger),
        "BACKUP_RECIPIENTS": f"{keys.team_recipient},{keys.escrow_recipient}",
        "BACKUP_VERIFYING_KEYS": keys.backup_verifying_key,
        "PROOF_VERIFYING_KEYS": keys.proof_verifying_key,
        "BACKUP_SIGNING_KEY": keys.backup_signing_key,
        "PROOF_SIGNING_KEY": keys.proof_signing_key,
        "RESTORE_IDENTITY_FILE": str(identity),
        **(store_variables(place) if place else {}),
    }


def deployer(database: Address, ledger: Address, keys: NewKeys, identity: Path) -> dict[str, str]:
    """The variables as `check` and `apply` want them, the key that encrypts blocks too (a word: no server reads it)."""
    return environment(database, ledger, keys, identity) | {"PREFECT_SERVER_ENCRYPTION_KEY": "set"}


def store_variables(place: S3Place) -> dict[str, str]:
    """What opens the store."""
    return {
        "AWS_ACCESS_KEY_ID": str(place.access_key),
        "AWS_SECRET_ACCESS_KEY": str(place.secret_key),
        "AWS_ENDPOINT_URL": str(place.endpoint),
    }


def identity_file(folder: Path, keys: NewKeys) -> Path:
    """The team's identity in a file of its owner's."""
    file = folder / "identity.txt"
    file.touch(mode=0o600)
    file.write_text(keys.team_identity + "\n")
    return file


def url_of(address: Address) -> str:
    """The address as an environment variable holds it."""
    host, password = quote(address.host, safe=""), quote(address.password, safe="")
    return f"postgresql://{address.user}:{password}@{host}:{address.port}/{address.database}?sslmode={address.sslmode}"
