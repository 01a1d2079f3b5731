"""The schemas that a restore moves: the present one is set aside until the restored one is known to be complete."""

from __future__ import annotations

from sqlalchemy import Connection, text

__all__ = ["ASIDE", "drop_aside", "put_back", "schemas", "set_aside"]

#: The name of the schema that was set aside.
ASIDE = "dspex_before_restore"


def schemas(connection: Connection) -> tuple[bool, bool]:
    """Whether there is a schema ``dspex``, and whether there is one that was set aside."""
    statement = text("SELECT to_regnamespace('dspex') IS NOT NULL, to_regnamespace(:aside) IS NOT NULL")
    present, aside = connection.execute(statement, {"aside": ASIDE}).one()
    return present, aside


def set_aside(connection: Connection) -> None:
    """Rename the schema, if there is one."""
    present, _ = schemas(connection)
    if present:
        connection.execute(text(f"ALTER SCHEMA dspex RENAME TO {ASIDE}"))


def put_back(connection: Connection) -> None:
    """Drop the schema, and rename the one that was set aside, if there is one."""
    connection.execute(text("DROP SCHEMA IF EXISTS dspex CASCADE"))
    _, aside = schemas(connection)
    if aside:
        connection.execute(text(f"ALTER SCHEMA {ASIDE} RENAME TO dspex"))


def drop_aside(connection: Connection) -> None:
    """Drop the schema that was set aside."""
    connection.execute(text(f"DROP SCHEMA IF EXISTS {ASIDE} CASCADE"))
