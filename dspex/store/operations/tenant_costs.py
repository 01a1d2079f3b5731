"""What the executions of a tenant cost in this calendar month (UTC), read a part at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

__all__ = ["TenantCost", "cost_since"]


@dataclass(frozen=True, slots=True)
class TenantCost:
    """``closed_usd`` is the cost of executions that finished from ``since`` to ``until``, ``open_usd`` of later ones.

    ``since`` is the given time, or the begin of the ``month`` if that is later.
    """

    month: datetime
    until: datetime
    closed_usd: float
    open_usd: float
    month_ends_in_seconds: float


#: Statements that settle executions may commit so late.
_COST = text("""
WITH times AS (
    SELECT date_trunc('month', now(), 'UTC') AS month, now() - interval '1 min' AS until
)
SELECT t.month, t.until,
    coalesce(sum(e.cost_usd) FILTER (WHERE e.finished_at < t.until), 0)::float8 AS closed_usd,
    coalesce(sum(e.cost_usd) FILTER (WHERE e.finished_at >= t.until), 0)::float8 AS open_usd,
    extract(epoch FROM t.month + interval '1 month' - now())::float8 AS month_ends_in_seconds
FROM times t LEFT JOIN dspex.executions e ON e.tenant = :tenant AND e.finished_at IS NOT NULL
    AND e.finished_at >= greatest(t.month, CAST(:since AS timestamptz))
GROUP BY t.month, t.until
""")


def cost_since(connection: Connection, tenant: str, since: datetime | None) -> TenantCost:
    """The cost of a tenant's executions that finished since a time of this month; None: since its begin."""
    return TenantCost(*connection.execute(_COST, {"tenant": tenant, "since": since}).one())
