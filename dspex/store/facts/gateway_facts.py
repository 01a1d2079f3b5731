"""What the gateways have to do: schedules to fire, webhooks to send."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from dspex.store.facts.rows import one_row

__all__ = ["FiredSchedules", "SentWebhooks", "schedules", "webhooks"]


@dataclass(frozen=True, slots=True)
class FiredSchedules:
    """How many schedules there are, how many are due, and for how long the first has been."""

    count: int
    due: int
    overdue_seconds: float
    failing: int


@dataclass(frozen=True, slots=True)
class SentWebhooks:
    """Webhooks of the last week: all, those that were given up, and for how long the first has been due."""

    count: int
    given_up: int
    overdue_seconds: float


_SCHEDULES = text("""
SELECT count(*), count(*) FILTER (WHERE next_at <= clock_timestamp()) AS due,
    coalesce(extract(epoch FROM clock_timestamp() - min(next_at)), 0)::float8 AS overdue_seconds,
    count(*) FILTER (WHERE error IS NOT NULL) AS failing
FROM dspex.schedules
""")
_WEBHOOKS = text("""
SELECT count(*), count(*) FILTER (WHERE dead_at IS NOT NULL) AS given_up,
    coalesce(extract(epoch FROM clock_timestamp() - min(next_at) FILTER (
        WHERE delivered_at IS NULL AND dead_at IS NULL)), 0)::float8 AS overdue_seconds
FROM dspex.webhook_deliveries WHERE created_at > clock_timestamp() - interval '7 days'
""")


def schedules(connection: Connection) -> FiredSchedules:
    """The schedules."""
    return one_row(connection, FiredSchedules, _SCHEDULES)


def webhooks(connection: Connection) -> SentWebhooks:
    """The webhooks of executions."""
    return one_row(connection, SentWebhooks, _WEBHOOKS)
