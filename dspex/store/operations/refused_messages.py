"""Refused messages, counted by day and reason, so that a flood of them takes a few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = ["KEPT_DAYS", "RECORD", "UNKNOWN", "listing", "record_parameters"]

KEPT_DAYS = 90

#: For psycopg. Rows older than KEPT_DAYS are deleted.
RECORD = """
WITH old AS (
    DELETE FROM dspex.refused_messages WHERE day < current_date - %(kept_days)s::int
)
INSERT INTO dspex.refused_messages AS r (day, reason, count, first_at, last_at, last_worker_id)
SELECT current_date, g.reason, g.count, now(), now(), %(worker_id)s
FROM unnest(%(reasons)s::text[], %(counts)s::bigint[]) AS g (reason, count) ORDER BY g.reason
ON CONFLICT (day, reason) DO UPDATE SET count = r.count + excluded.count, last_at = now(),
    last_worker_id = excluded.last_worker_id
RETURNING reason
"""

#: For psycopg: the ids that no execution has.
UNKNOWN = """
SELECT g.id FROM unnest(%(ids)s::uuid[]) AS g (id) WHERE NOT EXISTS (SELECT FROM dspex.executions e WHERE e.id = g.id)
"""


def record_parameters(counts: Mapping[str, int], worker_id: UUID) -> dict[str, Any]:
    """The arguments of RECORD."""
    return {
        "reasons": list(counts), "counts": list(counts.values()), "worker_id": worker_id, "kept_days": KEPT_DAYS,
    }  # fmt: skip


def listing(connection: Connection, *, days: int = KEPT_DAYS) -> Sequence[Mapping[str, Any]]:
    """Messages refused within so many days, the latest first: day reason count first_at last_at last_worker_id."""
    found = connection.execute(
        text(
            "SELECT day, reason, count, first_at, last_at, last_worker_id FROM dspex.refused_messages "
            "WHERE day >= current_date - CAST(:days AS int) ORDER BY last_at DESC"
        ),
        {"days": days},
    )
    return [dict(row) for row in found.mappings()]
