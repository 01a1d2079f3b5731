"""Dispatch: which of the queued executions are put on the queue in Redis, and which are taken back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, text

__all__ = ["dispatch", "redispatch"]

_DISPATCH = text("""
WITH waiting AS (
    SELECT count(*) AS dispatched FROM (
        SELECT FROM dspex.executions WHERE status = 'queued' AND dispatched_at IS NOT NULL LIMIT :window) w
), due AS MATERIALIZED (
    SELECT e.id FROM dspex.executions e JOIN dspex.programs p ON p.name = e.program
    WHERE e.status = 'queued' AND e.dispatched_at IS NULL AND e.run_at <= now() AND p.paused_at IS NULL
    ORDER BY e.priority, e.run_at
    LIMIT (SELECT greatest(:window - dispatched, 0) FROM waiting)
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE dspex.executions e SET dispatched_at = now() FROM due WHERE e.id = due.id RETURNING e.id, e.priority, e.program
""")


def dispatch(connection: Connection, window: int) -> list[Row[Any]]:
    """Mark what is due as dispatched, most urgent first, so that at most ``window`` wait in Redis."""
    rows = connection.execute(_DISPATCH, {"window": window}).all()
    return sorted(rows, key=lambda row: (row.priority, row.program, row.id))


_REDISPATCH = text("""
UPDATE dspex.executions e SET dispatched_at = NULL
FROM (
    SELECT id FROM dspex.executions
    WHERE status = 'queued' AND dispatched_at < now() - make_interval(secs => :older_than)
    ORDER BY dispatched_at LIMIT :most FOR UPDATE SKIP LOCKED
) lost WHERE e.id = lost.id
""")


def redispatch(connection: Connection, *, older_than: float, most: int) -> int:
    """Take back executions dispatched more than ``older_than`` seconds ago and never claimed. Returns how many."""
    return connection.execute(_REDISPATCH, {"older_than": older_than, "most": most}).rowcount
