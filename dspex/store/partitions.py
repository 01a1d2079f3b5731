"""Partitions of the tables that grow without bound, made ahead of time.

Three tables are partitioned by the execution's UUIDv7, whose first 48 bits are milliseconds since 1970, all at the
same times, so that a period's executions, model calls and audit entries can be removed together (retention.py). The
table ``periods`` lists the periods. The shorter executions are kept, the shorter the periods: rows are removed late by
a period at most, and queries meet few partitions however long executions are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, Row, text

__all__ = ["TABLES", "ensure", "first_id", "moment"]

TABLES = ("executions", "lm_calls", "audit_events")


def first_id(at: datetime) -> UUID:
    """The smallest UUIDv7 of this moment."""
    milliseconds = int(at.timestamp() * 1000)
    return UUID(int=milliseconds << 80)


def moment(id: UUID) -> datetime:
    """When a UUIDv7 was generated."""
    return datetime.fromtimestamp((id.int >> 80) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class PeriodLength:
    """The length of periods, and how many are made ahead."""

    name: str
    longest: timedelta
    ahead: int

    def begin(self, at: datetime) -> datetime:
        """When the period of this moment began."""
        day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.name == "month":
            return day.replace(day=1)
        return day - timedelta(days=day.weekday()) if self.name == "week" else day

    def next(self, at: datetime) -> datetime:
        """When the period of this moment ends."""
        return self.begin(self.begin(at) + self.longest)


_DAY = PeriodLength("day", timedelta(days=1), 7)
_WEEK = PeriodLength("week", timedelta(days=7), 3)
_MONTH = PeriodLength("month", timedelta(days=31), 3)


def unit(keep_days: int | None) -> PeriodLength:
    """Daily periods for a retention of up to two weeks, weekly ones up to 90 days, else monthly ones."""
    if keep_days is None or keep_days > 90:
        return _MONTH
    return _WEEK if keep_days > 14 else _DAY


def ensure(connection: Connection, *, keep_days: int | None = None) -> list[str]:
    """Make the partitions of this period and the next ones, if missing. Returns the names of the periods made.

    A period whose rows are already in the default partitions is left there. The functions in the database (migration
    0001) have their owner's rights, and the role of workers may call them. Raises LockNotAvailable, through SQLAlchemy,
    when executions hold their locks for half a second; then call it again later.
    """
    now = connection.scalar(text("SELECT clock_timestamp()"))
    chosen = unit(keep_days)
    _unmake_longer(connection, chosen, now)
    final = chosen.next(now)
    for _ in range(chosen.ahead):
        final = chosen.next(final)
    made = []
    for begin, end in _gaps(connection, chosen, chosen.begin(now), final):
        name = f"{begin:%Y_%m_%d}"
        parameters = {"name": name, "low": first_id(begin), "high": first_id(end)}
        if connection.scalar(text("SELECT dspex.make_period(:name, :low, :high)"), parameters):
            made.append(name)
    return made


def _gaps(
    connection: Connection, unit: PeriodLength, begin: datetime, final: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """The missing periods between two times."""
    within = {"low": first_id(begin), "high": first_id(final)}
    rows = connection.execute(_PERIODS_WITHIN, within).all()
    while begin < final:
        present = next((row for row in rows if row.low <= first_id(begin) < row.high), None)
        if present is not None:
            begin = final if present.high >= within["high"] else moment(present.high)
            continue
        ends = [unit.next(begin), *(moment(row.low) for row in rows if row.low > first_id(begin))]
        yield begin, min(ends)
        begin = min(ends)


# A period further ahead is left alone.
_PERIODS_WITHIN = text("SELECT low, high FROM dspex.periods WHERE high > :low AND low < :high ORDER BY low")


def _unmake_longer(connection: Connection, unit: PeriodLength, now: datetime) -> None:
    """Remove coming periods that are longer than they should be, starting with the last."""
    coming = text("SELECT name, low, high FROM dspex.periods WHERE low > :now ORDER BY low DESC")
    for period in connection.execute(coming, {"now": first_id(now)}).all():
        if not _is_longer(period, unit):
            continue
        if not connection.scalar(text("SELECT dspex.unmake_period(:name)"), {"name": period.name}):
            return


def _is_longer(period: Row[tuple[str, UUID, UUID]], unit: PeriodLength) -> bool:
    milliseconds = (period.high.int - period.low.int) >> 80
    return timedelta(milliseconds=milliseconds) > unit.longest
