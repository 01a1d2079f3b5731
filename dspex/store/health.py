"""Health records, and the figures that a health check reads from the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = ["latest", "queue", "record"]

_QUEUE = text("""
SELECT count(*) FILTER (WHERE run_at <= now()) AS due,
    coalesce(extract(epoch FROM now() - min(run_at) FILTER (WHERE run_at <= now())), 0)::float8
        AS oldest_wait_seconds
FROM (SELECT run_at FROM dspex.executions WHERE status = 'queued' LIMIT 100000) q
""")


def queue(connection: Connection) -> dict[str, Any]:
    """How many executions are due (counted up to 100,000) and how long the oldest of them has waited, in seconds."""
    return dict(connection.execute(_QUEUE).mappings().one())


def record(connection: Connection, *, healthy: bool, worker_id: UUID | None, components: Mapping[str, Any]) -> int:
    """Keep the result of a health check. Returns its id."""
    id: int = connection.execute(
        text("INSERT INTO dspex.health_checks (healthy, worker_id, components) "
             "VALUES (:healthy, :worker_id, CAST(:components AS json)) RETURNING id"),
        {"healthy": healthy, "worker_id": worker_id, "components": json.dumps(components)},
    ).scalar_one()  # fmt: skip
    return id


def latest(connection: Connection) -> Mapping[str, Any] | None:
    row = (
        connection.execute(text("SELECT * FROM dspex.health_checks ORDER BY id DESC LIMIT 1")).mappings().one_or_none()
    )
    return dict(row) if row else None
