"""Partitions, growth and retention: there is a place for next month's rows, and an end to what is kept."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

from dspex.doctor.check import Finding, Need, check, met, not_met, skipped, warning
from dspex.doctor.deployment import Deployment, is_local
from dspex.store.partitions import TABLES

#: Of a disk's space that should be free, and of what is left when it is too late.
LITTLE, ALMOST_NONE = 0.15, 0.05


@check(
    "There are partitions for the months ahead",
    Need.SCHEMA,
    mend="run `dspex migrate`; and see that beat runs, which has them made",
)
def partitions(deployment: Deployment) -> Finding:
    """This month and the next have partitions, so that a month can be dropped as a whole."""
    now: datetime = deployment.value("SELECT now()")
    following = (now.astimezone(UTC).replace(day=1) + timedelta(days=32)).strftime("%Y_%m")
    wanted = [f"{table}_{month}" for month in (now.astimezone(UTC).strftime("%Y_%m"), following) for table in TABLES]
    rows = deployment.rows("""SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'dspex' AND c.relispartition AND c.relkind = 'r'""")
    there = {str(row.relname) for row in rows}
    missing = [name for name in wanted if name not in there]
    last = max((name[-7:] for name in there if not name.endswith("default")), default="none")
    return not_met(f"missing: {', '.join(missing)}") if missing else met(f"up to {last.replace('_', '-')}")


@check(
    "No row is outside its month",
    Need.SCHEMA,
    mend="set the clock of the producer whose executions these are; see `dspex list`",
)
def strays(deployment: Deployment) -> Finding:
    """Rows in the default partitions came from a producer whose clock is off by months; they are not dropped with
    their month."""
    counts = {
        table: int(deployment.value(f"SELECT count(*) FROM (SELECT FROM dspex.{table}_default LIMIT 1000) q"))  # noqa: S608
        for table in TABLES
    }
    if not any(counts.values()):
        return met("none")
    return warning(", ".join(f"{table}: {n:,}{'' if n < 1000 else ' or more'}" for table, n in counts.items() if n))


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
    directory = deployment.value("SELECT current_setting('data_directory', true)")
    try:
        usage = shutil.disk_usage(str(directory))
    except OSError:
        return skipped("its data cannot be seen from here: watch its disk there")
    free = usage.free / usage.total
    said = f"{free:.0%} free, {usage.free / 1e9:,.1f} GB"
    return (not_met if free < ALMOST_NONE else warning if free < LITTLE else met)(said, free=free)
