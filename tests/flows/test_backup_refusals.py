"""backup meets a pooler, a ledger that says no, a store that lies: refused early, or a good backup all the same."""

from contextlib import closing

import pytest

from blocks.postgres.address import Address
from flows.backup.flow import backup
from flows.effect import NotDone
from tests.parts.pooler import Pooler
from tests.parts.scene import Scene, url_of


def test_a_transaction_pooler_is_refused_before_anything(
    stage: Scene, socket_database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Pooler(socket_database, by_transaction=True)) as pooler:
        monkeypatch.setenv("DATABASE_URL", url_of(pooler.way_in()))
        with pytest.raises(NotDone, match="is a transaction pooler's"):
            backup("test")
