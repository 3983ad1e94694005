"""When, where, for whom: makes a Prefect server equal to this repository."""
