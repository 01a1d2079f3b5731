"""Removal of old data: periods of executions and of audit trails, and rows of other tables that grow.

Functions in the database (migration 0001), which have their owner's rights, alter the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = [
    "PRUNED",
    "Period",
    "delete_strays",
    "digest",
    "drop",
    "floor",
    "periods",
    "prunable",
    "prune",
    "removable_requests",
    "remove_requests",
    "retire_audit",
    "retire_executions",
    "strays",
]


@dataclass(frozen=True, slots=True)
class Period:
    """A period of the partitioned tables, and the progress of retention with it.

    ``executions`` is how many were retired, or about how many there are; ``bytes`` is the period's size on disk.
    """

    name: str
    low: UUID
    high: UUID
    retired_at: datetime | None
    executions: int | None
    digest: bytes | None
    audit_export: str | None
    audit_retired_at: datetime | None
    bytes: int
    leftovers: bool


# reltuples is -1 for a table that was never analysed. Leftovers are detached and not yet dropped.
_PERIODS = text("""
SELECT p.name, p.low, p.high, p.retired_at, coalesce(p.executions, max(greatest(c.reltuples, 0)) FILTER (
        WHERE c.relname = 'executions_' || p.name)::bigint) AS executions, p.digest, p.audit_export, p.audit_retired_at,
    coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes,
    coalesce(bool_or(NOT c.relispartition), false) AS leftovers
FROM dspex.periods p LEFT JOIN pg_class c ON c.relnamespace = 'dspex'::regnamespace AND c.relkind = 'r'
    AND c.relname IN ('executions_' || p.name, 'lm_calls_' || p.name, 'audit_events_' || p.name)
GROUP BY p.name ORDER BY p.low
""")


def periods(connection: Connection) -> list[Period]:
    """All periods, the oldest first."""
    return [Period(*row) for row in connection.execute(_PERIODS)]


def retire_executions(connection: Connection, period: str, settled_before: datetime) -> int:
    """Detach a period's executions and model calls. Returns how many executions were not settled before a time, and
    stay."""
    parameters = {"period": period, "settled_before": settled_before}
    return int(connection.scalar(text("SELECT dspex.retire_executions(:period, :settled_before)"), parameters) or 0)


def digest(connection: Connection, period: str) -> None:
    """Count and digest the detached executions."""
    connection.execute(text("SELECT dspex.digest_retired(:period)"), {"period": period})


def retire_audit(connection: Connection, period: str, export: str | None) -> None:
    """Detach a period's audit entries; ``export`` is where they were written to."""
    parameters = {"period": period, "export": export}
    connection.execute(text("SELECT dspex.retire_audit(:period, :export)"), parameters)


def drop(connection: Connection, period: str) -> None:
    """Drop the detached tables of a period."""
    connection.execute(text("SELECT dspex.drop_retired(:period)"), {"period": period})


def floor(connection: Connection, *, audit: bool = False) -> UUID | None:
    """The id before which retention removed settled executions, or with ``audit`` their trails; None for none."""
    column = "audit_retired_at" if audit else "retired_at"
    found: UUID | None = connection.scalar(
        text(f"SELECT high FROM dspex.periods WHERE {column} IS NOT NULL ORDER BY high DESC LIMIT 1")  # noqa: S608
    )
    return found


# ---------------------------------------------------------------------------------------- rows of default partitions

# Rows of a period that is not retired are in its own partition, and are removed with it.
_STRAYS = text("""
SELECT id FROM dspex.executions e WHERE id < :floor AND finished_at < :settled_before
    AND NOT EXISTS (SELECT FROM dspex.periods p WHERE p.retired_at IS NULL AND e.id >= p.low AND e.id < p.high)
ORDER BY id LIMIT :most
""")


def strays(connection: Connection, *, settled_before: datetime, most: int) -> list[UUID]:
    """Executions outside the periods that can be removed now."""
    parameters = {"floor": floor(connection, audit=True), "settled_before": settled_before, "most": most}
    return list(connection.scalars(_STRAYS, parameters))


def delete_strays(connection: Connection, ids: Sequence[UUID], settled_before: datetime) -> int:
    """Delete these executions with their model calls and trails, unless they were retried. Returns how many."""
    statement = text("SELECT dspex.delete_strays(CAST(:ids AS uuid[]), :settled_before)")
    return int(connection.scalar(statement, {"ids": list(ids), "settled_before": settled_before}) or 0)


# ------------------------------------------------------------------------------------------------ recorded requests

_REMOVABLE_REQUESTS = text(
    "SELECT count(*) FROM dspex.lm_calls WHERE request IS NOT NULL AND created_at < :recorded_before"
)


def removable_requests(connection: Connection, recorded_before: datetime) -> int:
    """How many recorded requests are older than a time."""
    return int(connection.scalar(_REMOVABLE_REQUESTS, {"recorded_before": recorded_before}) or 0)


def remove_requests(connection: Connection, recorded_before: datetime) -> int:
    """Remove recorded requests that are older than a time, :data:`PRUNE_ROWS` at most. Returns how many."""
    parameters = {"recorded_before": recorded_before, "most": PRUNE_ROWS}
    return int(connection.scalar(text("SELECT dspex.remove_requests(:recorded_before, :most)"), parameters) or 0)


# ----------------------------------------------------------------------------------------------------- other tables

#: Old rows of other tables, by display name: the table, and the condition for its rows.
_EXPIRED = {
    "idempotency keys": (
        "idempotency_keys",
        "execution_id < (SELECT high FROM dspex.periods WHERE retired_at IS NOT NULL ORDER BY high DESC LIMIT 1) "
        "AND NOT EXISTS (SELECT FROM dspex.executions e WHERE e.id = execution_id)",
    ),
    "feedback": (
        "feedback",
        "execution_id < (SELECT high FROM dspex.periods WHERE retired_at IS NOT NULL ORDER BY high DESC LIMIT 1) "
        "AND NOT EXISTS (SELECT FROM dspex.executions e WHERE e.id = execution_id)",
    ),
    "health checks": ("health_checks", "at < clock_timestamp() - interval '30 days'"),
    # Recovery reads the workers of running executions.
    "workers": (
        "workers",
        "stopped_at < clock_timestamp() - interval '30 days' "
        "AND NOT EXISTS (SELECT FROM dspex.executions e WHERE e.worker_id = workers.id AND e.status = 'running')",
    ),
    "alert deliveries": (
        "alert_deliveries",
        "EXISTS (SELECT FROM dspex.alerts a WHERE a.id = alert_id "
        "AND a.resolved_at < clock_timestamp() - interval '90 days')",
    ),
    "alerts": ("alerts", "resolved_at < clock_timestamp() - interval '91 days'"),
    "backups": ("backups", "at < clock_timestamp() - interval '400 days'"),
}
PRUNED = tuple(_EXPIRED)
#: Rows that one statement deletes at most.
PRUNE_ROWS = 5000


def prunable(connection: Connection) -> Mapping[str, int]:
    """How many rows of other tables would be deleted now, by display name."""
    count = "SELECT count(*) FROM dspex.{} WHERE {}"
    return {
        name: int(connection.scalar(text(count.format(table, rows))) or 0) for name, (table, rows) in _EXPIRED.items()
    }


def prune(connection: Connection, name: str) -> int:
    """Delete rows of one of PRUNED, :data:`PRUNE_ROWS` at most. Returns how many."""
    table, rows = _EXPIRED[name]
    chosen = f"SELECT ctid FROM dspex.{table} WHERE {rows} LIMIT {PRUNE_ROWS}"  # noqa: S608
    return connection.execute(text(f"DELETE FROM dspex.{table} WHERE ctid = ANY(ARRAY({chosen}))")).rowcount  # noqa: S608
