"""Asking for another run: only what was really asked for is remembered, and what was not is said with what to do."""

from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.effect import ask_for, without_prefect

NOWHERE = "http://127.0.0.1:9/api"


def test_a_prefect_server_that_is_away_was_asked_for_nothing() -> None:
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        asked = ask_for("prove", "test", {"which": "it"}, key="away")
    assert not asked.run
    assert "prove could not be asked for (ConnectError)" in str(asked)
    assert "prefect deployment run prove/test --param which=it" in str(asked)


def test_break_glass_asks_for_nothing() -> None:
    with without_prefect():
        asked = ask_for("prune", "test", {}, key="glass")
    assert not asked.run
    assert str(asked).endswith("do it with: python -m deployments run prune --stage test")
