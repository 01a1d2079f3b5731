"""Partitions and size of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.facts.rows import one_row

__all__ = ["DatabaseSize", "count_outside", "partition_names", "size"]


@dataclass(frozen=True, slots=True)
class DatabaseSize:
    """The size of the database, the part that is DSPex's, and about how many executions it has."""

    bytes: int
    dspex_bytes: int
    executions: int


_SIZE = text("""
SELECT pg_database_size(current_database()),
    (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'dspex' AND c.relkind = 'r'),
    (SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'dspex.executions'::regclass)
""")
_PARTITIONS = text("""
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'dspex' AND c.relispartition AND c.relkind = 'r'
""")


def size(connection: Connection) -> DatabaseSize:
    return one_row(connection, DatabaseSize, _SIZE)


def partition_names(connection: Connection) -> set[str]:
    """The names of all partitions."""
    return set(connection.scalars(_PARTITIONS))


def count_outside(connection: Connection, table: str, low: UUID, high: UUID, *, most: int) -> int:
    """How many rows of a partitioned table lie before the first period or after the last, counted up to ``most``."""
    key = "id" if table == "executions" else "execution_id"
    statement = f"SELECT {key} FROM dspex.{table} WHERE {key} < :low OR {key} >= :high LIMIT :most"  # noqa: S608
    return len(connection.execute(text(statement), {"low": low, "high": high, "most": most}).all())
