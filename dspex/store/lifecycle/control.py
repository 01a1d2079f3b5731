"""Operators' control of executions: cancel them, and queue ended ones again.

Each is one statement with its audit entry. The row decides races with workers: the first change wins, and the other
finds another status.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.lifecycle.set_statements import RowFault, for_each_row
from dspex.store.programs import READABLE_CONTENT

__all__ = ["CANCELLING", "UNDISPATCH", "Cancelled", "cancel", "cancel_each", "count_failed", "failed_ids", "now",
           "retry"]  # fmt: skip

_CANCEL = """
WITH wanted AS MATERIALIZED (
    SELECT id, status FROM dspex.executions WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE
), cancelled AS (
    UPDATE dspex.executions e
    SET status = 'cancelled', finished_at = now(), dispatched_at = NULL, audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, NULL, %(events)s)
    FROM wanted w WHERE e.id = w.id AND w.status = 'queued'
    RETURNING e.id, e.audit_seq, e.attempt, e.audit_hash
), requested AS (
    UPDATE dspex.executions e SET cancel_requested_at = coalesce(e.cancel_requested_at, now())
    FROM wanted w WHERE e.id = w.id AND w.status = 'running' AND %(running)s
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, audit_seq, attempt, now(), %(events)s::json, audit_hash FROM cancelled
)
SELECT id, status FROM wanted
"""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The result of a cancel: executions that ``ended`` at once, ``running`` ones whose workers have to end them, and
    those that were already ``final``, by their status."""

    ended: list[UUID]
    running: list[UUID]
    final: dict[UUID, str]


def cancel(connection: Connection, ids: Collection[UUID], *, running: bool = True) -> Cancelled:
    """Cancel queued executions, and record the request for running ones if ``running``.

    Ids that do not exist are in no list.
    """
    parameters = {"ids": list(ids), "events": '[{"kind":"cancelled"}]', "running": running}
    rows = connection.exec_driver_sql(_CANCEL, parameters).all()
    return Cancelled(
        ended=[row.id for row in rows if row.status == "queued"],
        running=[row.id for row in rows if row.status == "running"],
        final={row.id: row.status for row in rows if row.status not in ("queued", "running")},
    )


def cancel_each(
    cancel_all: Callable[[Sequence[UUID]], Cancelled], ids: Sequence[UUID]
) -> tuple[Cancelled, list[RowFault[UUID]]]:
    """Cancel all of them but those that Postgres refuses to change, which are returned as well."""
    parts, refused = for_each_row(lambda some: [cancel_all(some)], ids)
    merged = Cancelled([], [], {})
    for part in parts:
        merged.ended.extend(part.ended)
        merged.running.extend(part.running)
        merged.final.update(part.final)
    return merged, refused


#: For psycopg: the attempts of a worker for which a cancel was requested.
CANCELLING = """
SELECT id, attempt, cancel_requested_at FROM dspex.executions
WHERE worker_id = %(worker_id)s AND status = 'running' AND cancel_requested_at IS NOT NULL
"""

#: For psycopg: return to the pump dispatched executions that this worker will not run.
UNDISPATCH = """
UPDATE dspex.executions SET dispatched_at = NULL
WHERE id = ANY(%(ids)s) AND status = 'queued' AND dispatched_at IS NOT NULL RETURNING id
"""

# Attempts keep counting, so that every attempt in the journal and the trail is unambiguous; as many more are allowed
# as the program's retry has.
_RETRY = f"""
WITH wanted AS MATERIALIZED (
    SELECT e.id, CASE WHEN v.attempts ~ '^[1-9][0-9]{{0,2}}$' THEN v.attempts::int ELSE 1 END AS attempts
    FROM dspex.executions e LEFT JOIN LATERAL (
        SELECT {READABLE_CONTENT} -> 'retry' ->> 'max_attempts' AS attempts
        FROM dspex.program_versions WHERE name = e.program AND version = e.version) v ON true
    WHERE e.id = ANY(%(ids)s) AND e.status IN ('failed', 'cancelled') ORDER BY e.id FOR UPDATE OF e
), retried AS (
    UPDATE dspex.executions e
    SET status = 'queued', run_at = now(), dispatched_at = NULL, finished_at = NULL, cancel_requested_at = NULL,
        max_attempts = e.attempt + w.attempts,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, NULL, %(events)s)
    FROM wanted w WHERE e.id = w.id
    RETURNING e.id, e.audit_seq, e.attempt, e.audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, audit_seq, attempt, now(), %(events)s::json, audit_hash FROM retried
)
SELECT id FROM retried
"""  # noqa: S608


def retry(connection: Connection, ids: Collection[UUID]) -> list[UUID]:
    """Queue failed and cancelled executions again, with fresh attempts; the pump dispatches them. Returns which."""
    events = '[{"kind":"retried","data":{"by":"operator"}}]'
    return [row.id for row in connection.exec_driver_sql(_RETRY, {"ids": list(ids), "events": events})]


def now(connection: Connection) -> datetime:
    """The database's clock."""
    at: datetime = connection.scalar(text("SELECT clock_timestamp()"))
    return at


_ALL_FAILED = """
FROM dspex.executions
WHERE status = 'failed' AND id > :after AND (CAST(:program AS text) IS NULL OR program = :program)
    AND finished_at < :before
"""
_FAILED = text(f"SELECT id {_ALL_FAILED} ORDER BY id LIMIT :most")
_COUNT_FAILED = text(f"SELECT count(*) {_ALL_FAILED}")


def failed_ids(connection: Connection, *, program: str | None, after: UUID, before: datetime, most: int) -> list[UUID]:
    """Executions that failed before a time, in the order of their ids, from ``after`` on."""
    parameters: dict[str, Any] = {"program": program, "after": after, "before": before, "most": most}
    return list(connection.scalars(_FAILED, parameters))


def count_failed(connection: Connection, *, program: str | None, after: UUID, before: datetime) -> int:
    """How many :func:`failed_ids` would find without its limit."""
    return int(connection.scalar(_COUNT_FAILED, {"program": program, "after": after, "before": before}) or 0)
