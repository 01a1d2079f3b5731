"""The record of backups, and the counts that a restore is compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, table, text

from dspex.store.tables import SCHEMA, metadata
from dspex.store.workers import LIVE

__all__ = [
    "BackupAttempt",
    "count_tables",
    "counts",
    "end_leases",
    "export_snapshot",
    "in_use",
    "last_attempt",
    "latest",
    "record",
    "unfinished",
]

#: The tables that a backup counts: all of them. A restore counts the tables in the manifest again.
TABLES = tuple(each.name for each in metadata.sorted_tables)

_PRESENT = text("SELECT relname FROM pg_class WHERE relnamespace = 'dspex'::regnamespace AND relkind IN ('r', 'p')")


def counts(connection: Connection, tables: Collection[str] = TABLES) -> Mapping[str, int]:
    """The number of rows of each of these tables that the schema has."""
    present = set(connection.scalars(_PRESENT))
    return {name: _count(connection, name) for name in tables if name in present}


def _count(connection: Connection, name: str) -> int:
    return connection.execute(select(func.count()).select_from(table(name, schema=SCHEMA))).scalar_one()


def in_use(connection: Connection) -> Mapping[str, int]:
    """How many live ``workers``, ``executions`` and ``programs`` the schema has; empty when it has none."""
    if connection.scalar(text("SELECT to_regclass('dspex.executions')")) is None:
        return {}
    row = connection.execute(
        text(f"""SELECT (SELECT count(*) FROM dspex.workers w WHERE {LIVE}) AS workers,
                (SELECT count(*) FROM dspex.executions) AS executions,
                (SELECT count(*) FROM dspex.programs) AS programs""")  # noqa: S608
    ).one()
    return {name: int(count) for name, count in row._mapping.items() if count}


def export_snapshot(connection: Connection) -> str:
    """The name by which pg_dump reads the snapshot of this transaction."""
    snapshot: str = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
    return snapshot


def count_tables(connection: Connection) -> int:
    """How many tables pg_dump will write, partitions included."""
    statement = text("SELECT count(*) FROM pg_class WHERE relnamespace = 'dspex'::regnamespace AND relkind = 'r'")
    return int(connection.scalar(statement) or 0)


def unfinished(connection: Connection) -> Mapping[str, int]:
    """How many executions are queued and running, by status."""
    statement = text("SELECT status, count(*) FROM dspex.executions WHERE finished_at IS NULL GROUP BY status")
    return {status: int(count) for status, count in connection.execute(statement)}


def end_leases(connection: Connection) -> None:
    """End all leases: the next leader recovers the executions of these workers at once."""
    connection.execute(
        text("UPDATE dspex.workers SET state = 'dead', stopped_at = clock_timestamp() WHERE stopped_at IS NULL")
    )
    connection.execute(text("DELETE FROM dspex.leaderships"))


def record(
    connection: Connection, *, ok: bool, host: str, path: str, bytes: int | None = None, sha256: str | None = None,
    error: str | None = None,
) -> None:  # fmt: skip
    """Record a backup or its failure."""
    connection.execute(
        text("INSERT INTO dspex.backups (ok, host, path, bytes, sha256, error) "
             "VALUES (:ok, :host, :path, :bytes, :sha256, :error)"),
        {"ok": ok, "host": host, "path": path, "bytes": bytes, "sha256": sha256, "error": error},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BackupAttempt:
    """Whether the last backup succeeded, on which host, and why it did not."""

    ok: bool
    host: str
    error: str | None


def last_attempt(connection: Connection) -> BackupAttempt | None:
    """The last backup that was tried, if any."""
    row = connection.execute(text("SELECT ok, host, error FROM dspex.backups ORDER BY at DESC LIMIT 1")).one_or_none()
    return BackupAttempt(*row) if row else None


def latest(connection: Connection) -> Mapping[str, Any] | None:
    """The last successful backup, with ``age_seconds``; None when there was none."""
    row = connection.execute(
        text("""SELECT *, extract(epoch FROM clock_timestamp() - at)::float8 AS age_seconds
                FROM dspex.backups WHERE ok ORDER BY at DESC LIMIT 1""")
    )
    found = row.mappings().one_or_none()
    return dict(found) if found else None
