"""Whether the key that encrypts Prefect's blocks lies beside them.

Without PREFECT_SERVER_ENCRYPTION_KEY the server makes a key and keeps it in the same database as the blocks: a dump of
that database is then a dump of every secret. Prefect's API does not tell (the variable is no setting of Prefect's), so
the database is asked where its address is known, else the deployer is told what cannot be known.
"""

from collections.abc import Mapping

import psycopg

from blocks.errors import BlockError
from blocks.postgres.address import Address

KEY, DATABASE = "PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_API_DATABASE_CONNECTION_URL"


def warning(environ: Mapping[str, str]) -> str:
    """The sentence to warn with, or nothing."""
    url = environ.get(DATABASE, "")
    if url.startswith("postgresql"):
        return _of_database(url)
    if environ.get(KEY):
        return ""
    return (
        f"whether the Prefect server encrypts blocks with a key of its own cannot be known from here (neither {KEY} nor"
        f" {DATABASE} is set): without one, a dump of its database is a dump of every secret;"
        f" set {DATABASE} here to have it looked at, or {KEY} if the server has it"
    )


def _of_database(url: str) -> str:
    try:
        with Address.of_url(url.replace("postgresql+asyncpg:", "postgresql:", 1)).connect() as connection:
            found = connection.execute(
                "select count(*) from public.configuration where key = 'ENCRYPTION_KEY'"
            ).fetchone()
    except (BlockError, psycopg.Error) as error:
        return f"Prefect's database could not be asked for its encryption key ({type(error).__name__})"
    if not found or not found[0]:
        return ""
    return (
        f"Prefect's database holds the key of its own blocks: delete the blocks, set {KEY} for the server, restart it,"
        " and apply with all variables; until then a dump of that database is a dump of every secret"
    )
