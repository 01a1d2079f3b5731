"""The role and the database of a new Postgres, made by its superuser."""

from __future__ import annotations

import psycopg
from psycopg import sql

__all__ = ["provision"]


def provision(superuser_url: str, name: str, password: str) -> None:
    """Create a role and a database of this name where they are missing."""
    with psycopg.connect(superuser_url, autocommit=True, connect_timeout=10) as connection:
        role = sql.Identifier(name)
        if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchall():
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {}").format(role, sql.Literal(password))
            )
            connection.execute(sql.SQL("GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO {}").format(role))
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchall():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
