"""Partitions, growth and retention: there is a place for next month's rows, and an end to what is kept."""

from __future__ import annotations

import shutil
from datetime import datetime
from uuid import UUID

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_met, skipped, warning
from dspex.operations.doctor.deployment import Deployment, is_local
from dspex.store.partitions import TABLES, first_id, moment

#: Of a disk's space that should be free, and of what is left when it is too late.
LITTLE, ALMOST_NONE = 0.15, 0.05
#: For so many days from now rows must have a partition: whoever makes them may be away over a weekend.
AHEAD_DAYS = 3
#: A period that is so many days too old should be gone.
LATE_DAYS = 2
MOST_STRAYS = 1000


@check(
    "There are partitions for the days ahead",
    Need.SCHEMA,
    mend="run `dspex migrate`; and see that beat and a worker run, which have them made",
)
def partitions(deployment: Deployment) -> Finding:
    """The rows of today and of the next days have partitions, so that retention can drop a period as a whole."""
    now: datetime = deployment.value("SELECT now()")
    periods = deployment.rows(
        "SELECT name, high FROM dspex.periods WHERE high > :now AND retired_at IS NULL ORDER BY low", now=first_id(now)
    )
    if not periods:
        return not_met("none, not even for today")
    there = deployment.rows("""SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'dspex' AND c.relispartition AND c.relkind = 'r'""")
    wanted = {f"{table}_{period.name}" for period in periods for table in TABLES}
    if missing := wanted - {row.relname for row in there}:
        return not_met(f"missing: {', '.join(sorted(missing))}")
    ahead = (moment(periods[-1].high) - now).days
    said = f"for {counted(ahead, 'day')} from now"
    return met(said, days=ahead) if ahead >= AHEAD_DAYS else not_met(said, days=ahead)


@check(
    "No row is outside its month",
    Need.SCHEMA,
    mend="set the clock of the producer whose executions these are; see `dspex list`",
)
def strays(deployment: Deployment) -> Finding:
    """Rows in the default partitions came from a producer whose clock is off by months; they are not dropped with
    their month."""
    span = deployment.row("SELECT min(low::text)::uuid AS low, max(high::text)::uuid AS high FROM dspex.periods")
    if span.low is None:
        return not_met("there are no partitions")
    counts = {table: _outside(deployment, table, span.low, span.high) for table in TABLES}
    if not any(counts.values()):
        return met("none")
    told = [f"{table}: {n:,}{' or more' if n == MOST_STRAYS else ''}" for table, n in counts.items() if n]
    return warning(", ".join(told))


@check("Growth", Need.SCHEMA, mend="set DSPEX_RETENTION_DAYS, and give Postgres' disk room")
def growth(deployment: Deployment) -> Finding:
    """How large the database is, how much each execution takes, and how many came within a day."""
    row = deployment.row("""
        SELECT pg_database_size(current_database()) AS bytes,
            (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
                JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'dspex' AND c.relkind = 'r') AS ours,
            (SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_inherits i
                JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'dspex.executions'::regclass) AS executions""")
    said = f"{row.bytes / 1e6:,.0f} MB, {row.ours / 1e6:,.0f} MB of them DSPex's, about {row.executions:,} executions"
    return met(said, bytes=row.bytes, executions=row.executions)


@check("The disk has room", Need.POSTGRES, mend="make room, or set DSPEX_RETENTION_DAYS")
def disk(deployment: Deployment) -> Finding:
    """Where Postgres runs on this machine and says where its data is: how much of that disk is free."""
    if not is_local(deployment.database.url):
        return skipped("Postgres runs on another machine: watch its disk there")
    if not deployment.value("SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')"):
        return skipped("this role may not see where its data is: watch its disk")
    directory = deployment.value("SHOW data_directory")
    try:
        usage = shutil.disk_usage(str(directory))
    except OSError:
        return skipped("its data cannot be seen from here: watch its disk there")
    free = usage.free / usage.total
    said = f"{free:.0%} free, {usage.free / 1e9:,.1f} GB"
    return (not_met if free < ALMOST_NONE else warning if free < LITTLE else met)(said, free=free)


@check(
    "There is an end to what is kept",
    Need.SETTINGS,
    mend="set DSPEX_RETENTION_DAYS, and DSPEX_AUDIT_RETENTION_DAYS where trails must be kept longer",
)
def retention(deployment: Deployment) -> Finding:
    """Without a retention every execution is kept for ever, and the database grows with each."""
    days, audit = deployment.settings.retention_days, deployment.settings.audit_kept_days
    if days is None:
        return (warning if deployment.production else met)("everything is kept for ever")
    return met(f"executions for {counted(days, 'day')}, audit trails for {counted(audit or days, 'day')}")


@check(
    "Retention keeps up", Need.SCHEMA, mend="see that beat and a worker run, and the worker's log; `dspex retention`"
)
def retired(deployment: Deployment) -> Finding:
    """What is older than DSPEX_RETENTION_DAYS is gone, but for what is not settled yet."""
    days = deployment.settings.retention_days
    if days is None:
        return skipped("everything is kept for ever")
    limit: datetime = deployment.value("SELECT now() - make_interval(days => :days)", days=days + LATE_DAYS)
    late = deployment.rows(
        "SELECT name FROM dspex.periods WHERE high < :limit AND retired_at IS NULL ORDER BY low", limit=first_id(limit)
    )
    if late:
        return not_met(f"still there: {', '.join(row.name for row in late[:5])}")
    return met(f"nothing is older than {counted(days, 'day')} and a period")


def _outside(deployment: Deployment, table: str, low: UUID, high: UUID) -> int:
    """How many rows are before the first period or after the last; those are looked for nowhere else."""
    key = "id" if table == "executions" else "execution_id"
    outside = f"SELECT {key} FROM dspex.{table} WHERE {key} < :low OR {key} >= :high LIMIT :most"  # noqa: S608
    return len(deployment.rows(outside, low=low, high=high, most=MOST_STRAYS))
