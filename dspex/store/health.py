"""Health records, and the figures that a health check reads from the database.

Each is made of index look-ups and counts that stop: what a check costs does not grow with what is finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = ["MOST_COUNTED", "Backlog", "backlogs", "latest", "queue", "record"]

#: A program's due executions are counted up to so many.
MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of a program is due and not begun: ``due`` of them, ``dispatched`` of which are on the queue in Redis.

    ``limited``: paused, or held back by its own limits, so that waiting is what was asked for.
    """

    program: str
    due: int
    dispatched: int
    oldest_wait_seconds: float
    paused: bool
    limited: bool


# The least of each priority is one look into the index executions_due; what is dispatched is a small window.
BACKLOGS = f"""
WITH dispatched AS MATERIALIZED (
    SELECT program, count(*) AS count, min(run_at) AS oldest FROM dspex.executions
    WHERE status = 'queued' AND dispatched_at IS NOT NULL GROUP BY program
)
SELECT p.name AS program, (coalesce(d.count, 0) + due.count)::int AS due, coalesce(d.count, 0)::int AS dispatched,
    greatest(extract(epoch FROM now() - least(d.oldest, first.oldest)), 0)::float8 AS oldest_wait_seconds,
    p.paused_at IS NOT NULL AS paused,
    (p.concurrency IS NOT NULL OR p.per_minute IS NOT NULL OR p.max_cost_usd IS NOT NULL) AS limited
FROM dspex.programs p
LEFT JOIN dispatched d ON d.program = p.name
CROSS JOIN LATERAL (
    SELECT min(due_first.run_at) AS oldest FROM generate_series(0, 9) AS n (priority) CROSS JOIN LATERAL (
        SELECT e.run_at FROM dspex.executions e
        WHERE e.program = p.name AND e.priority = n.priority AND e.status = 'queued' AND e.dispatched_at IS NULL
            AND e.run_at <= now()
        ORDER BY e.run_at LIMIT 1) due_first
) first
CROSS JOIN LATERAL (
    SELECT count(*) AS count FROM (
        SELECT FROM dspex.executions e
        WHERE first.oldest IS NOT NULL AND e.program = p.name AND e.status = 'queued' AND e.dispatched_at IS NULL
            AND e.run_at <= now() LIMIT {MOST_COUNTED}) counted
) due
WHERE d.count > 0 OR due.count > 0
ORDER BY 4 DESC
"""  # noqa: S608


def backlogs(connection: Connection) -> list[Backlog]:
    """The programs with something due, those that have waited longest first."""
    return [Backlog(**row) for row in connection.execute(text(BACKLOGS)).mappings()]


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
