"""Postgres: where it is, its snapshot, its bytes out and in. Imports no Prefect but in server.py."""
