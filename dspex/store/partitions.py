"""Monthly partitions of what grows without bound, made ahead of time.

All three tables are partitioned by the execution's UUIDv7, whose first 48 bits are milliseconds since 1970, so
that one month's executions, model calls and audit entries can be dropped together.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = ["TABLES", "ensure", "first_id"]

TABLES = ("executions", "lm_calls", "audit_events")


def first_id(moment: datetime) -> UUID:
    """The smallest UUIDv7 of this moment."""
    milliseconds = int(moment.timestamp() * 1000)
    return UUID(int=milliseconds << 80)


def ensure(connection: Connection, *, months_ahead: int = 3) -> list[str]:
    """Make the partitions of this month and the ``months_ahead`` next, if missing. Returns the names made.

    A month whose rows already went to the default partition is left there: Postgres would have to move them.
    """
    now = connection.scalar(text("SELECT clock_timestamp()"))
    existing = set(
        connection.scalars(
            text(
                """SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'dspex'"""
            )
        )
    )
    made = []
    for begin, end in _months(now, months_ahead + 1):
        low, high = first_id(begin), first_id(end)
        for table in TABLES:
            name = f"{table}_{begin:%Y_%m}"
            if name in existing or _default_holds(connection, table, low, high):
                continue
            connection.exec_driver_sql(
                f"CREATE TABLE dspex.{name} PARTITION OF dspex.{table} FOR VALUES FROM ('{low}') TO ('{high}')"
            )
            made.append(name)
    return made


def _default_holds(connection: Connection, table: str, low: UUID, high: UUID) -> bool:
    key = "id" if table == "executions" else "execution_id"
    found = connection.scalar(
        text(f"SELECT EXISTS (SELECT FROM dspex.{table}_default WHERE {key} >= :low AND {key} < :high)"),  # noqa: S608
        {"low": low, "high": high},
    )
    return bool(found)


def _months(now: datetime, count: int) -> Iterator[tuple[datetime, datetime]]:
    year, month = now.year, now.month
    for _ in range(count):
        following = (year + month // 12, month % 12 + 1)
        yield datetime(year, month, 1, tzinfo=UTC), datetime(*following, 1, tzinfo=UTC)
        year, month = following
