"""Monthly partitions of what grows without bound, made ahead of time.

All three tables are partitioned by the execution's UUIDv7, whose first 48 bits are milliseconds since 1970, so
that one month's executions, model calls and audit entries can be dropped together.
"""

from __future__ import annotations

from datetime import datetime
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

    The function in the database (migration 0001) has its owner's rights: the role of workers may call it.
    """
    return list(connection.scalars(text("SELECT dspex.make_partitions(:months)"), {"months": months_ahead}))
