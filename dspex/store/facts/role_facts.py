"""The role that this process connects as: its rights, and the encryption of its connection."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from dspex.store.facts.rows import one_row
from dspex.store.roles import PRODUCER, WRITES
from dspex.store.tables import lm_calls, metadata

__all__ = [
    "ConnectionEncryption",
    "ProducerRights",
    "Role",
    "SchemaOwner",
    "encryption",
    "may_read_settings",
    "producer_rights",
    "role",
    "schema_owner",
]


@dataclass(frozen=True, slots=True)
class Role:
    """The current role and its attributes."""

    name: str
    superuser: bool
    bypasses_row_security: bool
    creates_roles: bool
    creates_databases: bool


@dataclass(frozen=True, slots=True)
class SchemaOwner:
    """Whether the current role owns the schema, or is a member of the role that does."""

    role: str
    owns: bool


@dataclass(frozen=True, slots=True)
class ConnectionEncryption:
    """TLS of the current connection; ``version`` and ``cipher`` are None without it."""

    tls: bool
    version: str | None
    cipher: str | None


@dataclass(frozen=True, slots=True)
class ProducerRights:
    """How many rights a producer needs, and those that the current role lacks, such as ``INSERT on executions``."""

    role: str
    needed: int
    lacking: tuple[str, ...]


_ROLE = text("""
SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user
""")
_OWNER = text("""
SELECT current_user, pg_has_role(current_user, nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'dspex'
""")
_ENCRYPTION = text("SELECT ssl, version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
_LACKING = text("""
SELECT DISTINCT r || ' on ' || t FROM unnest(
    CAST(:tables AS text[]), CAST(:rights AS text[]), CAST(:columns AS text[])) AS q (t, r, c)
WHERE NOT CASE WHEN c = '' THEN has_table_privilege('dspex.' || t, r)
    ELSE has_column_privilege('dspex.' || t, c, r) END
ORDER BY 1
""")
_GRANTED = re.compile(r"(\w+)(?: \(([^)]*)\))?")


def role(connection: Connection) -> Role:
    return one_row(connection, Role, _ROLE)


def schema_owner(connection: Connection) -> SchemaOwner:
    return one_row(connection, SchemaOwner, _OWNER)


def encryption(connection: Connection) -> ConnectionEncryption:
    return one_row(connection, ConnectionEncryption, _ENCRYPTION)


def may_read_settings(connection: Connection) -> bool:
    """Whether the current role may read settings such as ``data_directory``."""
    return bool(connection.scalar(text("SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')")))


def producer_rights(connection: Connection) -> ProducerRights:
    """The rights of the role of producers, compared with the current role's."""
    rights = [(table, right, column) for table, grant in WRITES[PRODUCER].items() for right, column in _rights(grant)]
    rights += [(table.name, "SELECT", "") for table in metadata.tables.values() if table is not lm_calls]
    tables, names, columns = zip(*rights, strict=True)
    lacking = connection.scalars(
        _LACKING, {"tables": list(tables), "rights": list(names), "columns": list(columns)}
    ).all()
    return ProducerRights(role(connection).name, len(rights), tuple(lacking))


def _rights(grant: str) -> Iterator[tuple[str, str]]:
    """Each right of a grant such as ``INSERT (a, b), UPDATE`` with each of its columns; no column means all."""
    for right, columns in _GRANTED.findall(grant):
        yield from ((right, column.strip()) for column in columns.split(","))
