"""Which of the manifest's tables an archive's list lacks: lines as pg_restore 17 prints them."""

from typing import Any

import pytest

from flows.verify.archive import lacking_tables
from tests.decide.builders import manifest, read

LIST = """;
; Archive created at 2026-11-24 02:00:01 UTC
;     TOC Entries: 9
;
216; 1259 16410 TABLE public 비디오 app owner
218; 1259 16420 TABLE public comments app
219; 1259 16421 TABLE ATTACH public part app
3407; 2606 16415 CONSTRAINT public users users_pkey app
"""


def lacks(listed: str, name: str, **more: Any) -> list[str]:
    """What the list lacks of a manifest with this one table."""
    whole = manifest()
    whole["tables"][0] |= {"schema": "public", "name": name} | more
    return lacking_tables(listed, read(whole))


def test_a_table_that_is_listed_is_there_whatever_its_owner_is_called() -> None:
    assert lacks(LIST, "비디오") == []
    assert lacks(LIST, "comments") == []


def test_a_table_is_lacking_though_its_key_or_a_longer_name_is_listed() -> None:
    assert lacks(LIST, "users") == ["public.users"]
    assert lacks(LIST, "part") == ["public.part"]
    assert lacks(LIST, "comment") == ["public.comment"]
    assert lacks("", "비디오") == ["public.비디오"]


def test_a_configuration_table_comes_with_its_extension() -> None:
    assert lacks(LIST, "settings", condition="") == []


@pytest.mark.parametrize("encoding", ["EUC_KR", "SQL_ASCII"])
def test_names_beyond_ascii_are_compared_whatever_the_encoding_of_the_database(encoding: str) -> None:
    whole = manifest()
    whole["database"]["encoding"] = encoding
    assert lacking_tables(LIST, read(whole)) == []
    assert lacking_tables("", read(whole)) == ["public.비디오"]
