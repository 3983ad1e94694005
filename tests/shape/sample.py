"""A flow for the tests of the strict check: small, and no part of the house."""

from datetime import timedelta
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field


@flow
def count(
    stage: str, kind: Literal["daily", "weekly"] = "daily", percent: Annotated[int, Field(ge=0, le=100)] = 10
) -> str:
    """Counts.

    Args:
        stage: which stage is operated
        kind: which kind
        percent: share of the tables, 0-100
    """
    return f"{stage} {kind} {percent}"


@flow
def backup(stage: str, kind: Literal["daily", "weekly"] = "daily") -> str:
    """Backs up nothing.

    Args:
        stage: which stage is operated
        kind: which kind
    """
    return f"{stage} {kind}"


@flow
def leak(stage: str, api_key: str = "", wait: timedelta = timedelta(0)) -> str:
    """Takes what it must not.

    Args:
        stage: which stage is operated
        api_key: must not be here
        wait: how long
    """
    return f"{stage} {api_key} {wait}"


def no_flow() -> None:
    """Is only a function."""
