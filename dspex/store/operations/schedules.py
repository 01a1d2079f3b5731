"""Schedules: what is submitted again and again, and when next.

A schedule is fired in a transaction that holds its row, stores the execution and moves ``next_at``: so each due time is
submitted once, whatever dies. ``now`` is the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

__all__ = ["ScheduleRow", "due", "find", "fired", "listing", "remove", "store"]


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule. ``inputs`` and ``metadata`` are JSON text; ``error`` is why the last due time submitted nothing."""

    name: str
    program: str
    inputs: str
    cron: str
    timezone: str
    missed: str
    priority: int
    metadata: str | None
    tenant: str | None
    next_at: datetime | None
    last_at: datetime | None
    last_execution_id: UUID | None
    error: str | None
    now: datetime


_COLUMNS = """name, program, inputs::text, cron, timezone, missed, priority, metadata::text, tenant, next_at, last_at,
    last_execution_id, error, clock_timestamp() AS now"""
_STORE = text(f"""
INSERT INTO dspex.schedules AS s (name, program, inputs, cron, timezone, missed, priority, metadata, tenant, next_at)
VALUES (:name, :program, CAST(:inputs AS json), :cron, :timezone, :missed, :priority, CAST(:metadata AS json), :tenant,
    :next_at)
ON CONFLICT (name) DO UPDATE SET program = excluded.program, inputs = excluded.inputs, cron = excluded.cron,
    timezone = excluded.timezone, missed = excluded.missed, priority = excluded.priority, metadata = excluded.metadata,
    tenant = excluded.tenant, error = NULL,
    next_at = CASE WHEN (s.cron, s.timezone) = (excluded.cron, excluded.timezone) THEN s.next_at
        ELSE excluded.next_at END
RETURNING {_COLUMNS}
""")  # noqa: S608
_FIND = text(f"SELECT {_COLUMNS} FROM dspex.schedules WHERE name = :name")  # noqa: S608
_LISTING = text(f"SELECT {_COLUMNS} FROM dspex.schedules ORDER BY name")  # noqa: S608
_REMOVE = text("DELETE FROM dspex.schedules WHERE name = :name RETURNING name")
_DUE = text(f"""
SELECT {_COLUMNS} FROM dspex.schedules
WHERE next_at <= clock_timestamp() AND timezone <> ALL(CAST(:but_zones AS text[])) ORDER BY next_at LIMIT :most
FOR UPDATE SKIP LOCKED
""")  # noqa: S608
_FIRED = text("""
UPDATE dspex.schedules SET next_at = :next_at, error = :error,
    last_at = CASE WHEN CAST(:execution_id AS uuid) IS NULL THEN last_at ELSE :due_at END,
    last_execution_id = coalesce(CAST(:execution_id AS uuid), last_execution_id)
WHERE name = :name
""")


def store(connection: Connection, **schedule: Any) -> ScheduleRow:
    """Store a schedule, or replace it; it keeps its next time unless cron or time zone change."""
    return _row(connection.execute(_STORE, schedule).one())


def find(connection: Connection, name: str) -> ScheduleRow | None:
    """The schedule of this name."""
    row = connection.execute(_FIND, {"name": name}).one_or_none()
    return None if row is None else _row(row)


def listing(connection: Connection) -> list[ScheduleRow]:
    """All schedules by name."""
    return [_row(row) for row in connection.execute(_LISTING)]


def remove(connection: Connection, name: str) -> bool:
    """Remove a schedule. False when there is none of this name."""
    return connection.execute(_REMOVE, {"name": name}).one_or_none() is not None


def due(connection: Connection, *, most: int, but_zones: Collection[str] = ()) -> Sequence[ScheduleRow]:
    """The schedules that are due and that no other transaction fires, locked, except in the time zones ``but_zones``.
    Needs a transaction."""
    return [_row(row) for row in connection.execute(_DUE, {"most": most, "but_zones": list(but_zones)})]


def fired(
    connection: Connection, name: str, *, due_at: datetime, next_at: datetime | None, execution_id: UUID | None,
    error: str | None,
) -> None:  # fmt: skip
    """Record what a due time became: an execution, or nothing; and when the next one is."""
    given = {"name": name, "due_at": due_at, "next_at": next_at, "execution_id": execution_id, "error": error}
    connection.execute(_FIRED, given)


def _row(row: Row[Any]) -> ScheduleRow:
    values: tuple[Any, ...] = tuple(row)
    return ScheduleRow(*values)
