"""Partitions, growth and retention: the coming rows have partitions, and old rows are removed."""

from __future__ import annotations

import shutil
from datetime import timedelta

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment, is_local
from dspex.store.facts import role_facts, server_facts, storage_facts
from dspex.store.operations import retention as retention_store
from dspex.store.partitions import TABLES, first_id, moment

#: The share of a disk that should be free, and the share at which it is almost too late.
LITTLE, ALMOST_NONE = 0.15, 0.05
#: Rows need partitions for so many days from now: beat and the workers may be down over a weekend.
AHEAD_DAYS = 3
#: A period should be gone when it is so many days too old.
LATE_DAYS = 2
MOST_STRAYS = 1000


@check(
    "There are partitions for the coming days",
    Need.SCHEMA,
    fix="run `dspex migrate`; and check that beat and a worker run, which make them",
)
def partitions(deployment: Deployment) -> Finding:
    """The rows of today and of the next days have partitions, so that retention can drop whole periods."""
    now = deployment.ask(server_facts.now)
    periods = [p for p in deployment.ask(retention_store.periods) if p.high > first_id(now) and not p.retired_at]
    if not periods:
        return not_met("none, not even for today")
    wanted = {f"{table}_{period.name}" for period in periods for table in TABLES}
    if missing := wanted - deployment.ask(storage_facts.partition_names):
        return not_met(f"missing: {', '.join(sorted(missing))}")
    ahead = (moment(periods[-1].high) - now).days
    return (met if ahead >= AHEAD_DAYS else not_met)(f"for {counted(ahead, 'day')} from now", days=ahead)


@check(
    "No row is outside its period",
    Need.SCHEMA,
    fix="set the clock of the producer that submitted these executions; see `dspex list`",
)
def strays(deployment: Deployment) -> Finding:
    """Rows in the default partitions came from a producer whose clock is off by months; they are not dropped with
    their period."""
    periods = deployment.ask(retention_store.periods)
    if not periods:
        return not_met("there are no partitions")
    low, high = periods[0].low, max(period.high for period in periods)
    counts = {
        table: deployment.ask(storage_facts.count_outside, table, low, high, most=MOST_STRAYS) for table in TABLES
    }
    outside = [f"{table}: {n:,}{' or more' if n == MOST_STRAYS else ''}" for table, n in counts.items() if n]
    return warning(", ".join(outside)) if outside else met("none")


@check("Growth", Need.SCHEMA, fix="set DSPEX_RETENTION_DAYS, and give Postgres a larger disk")
def growth(deployment: Deployment) -> Finding:
    """The size of the database, the part that is DSPex's, and about how many executions it holds."""
    size = deployment.ask(storage_facts.size)
    evidence = (
        f"{size.bytes / 1e6:,.0f} MB, {size.dspex_bytes / 1e6:,.0f} MB of them DSPex's, "
        f"about {size.executions:,} executions"
    )
    return met(evidence, bytes=size.bytes, executions=size.executions)


@check("The disk has free space", Need.POSTGRES, fix="free some space, or set DSPEX_RETENTION_DAYS")
def disk(deployment: Deployment) -> Finding:
    """The free space of Postgres' disk, where Postgres runs on this machine and its data directory can be read."""
    if not is_local(deployment.database.url):
        return not_applicable("Postgres runs on another machine: watch its disk there")
    if not deployment.ask(role_facts.may_read_settings):
        return not_applicable("this role may not see the data directory: watch its disk")
    directory = deployment.ask(server_facts.settings, "data_directory")["data_directory"]
    try:
        usage = shutil.disk_usage(str(directory))
    except OSError:
        return not_applicable("its data directory cannot be read from here: watch its disk there")
    free = usage.free / usage.total
    evidence = f"{free:.0%} free, {usage.free / 1e9:,.1f} GB"
    return (not_met if free < ALMOST_NONE else warning if free < LITTLE else met)(evidence, free=free)


@check(
    "A retention is set",
    Need.SETTINGS,
    fix="set DSPEX_RETENTION_DAYS, and DSPEX_AUDIT_RETENTION_DAYS if audit trails must be kept longer",
)
def retention(deployment: Deployment) -> Finding:
    """Without a retention every execution is kept for ever, and the database grows with each."""
    days, audit = deployment.settings.retention_days, deployment.settings.audit_kept_days
    if days is None:
        return (warning if deployment.production else not_applicable)("everything is kept for ever")
    return met(f"executions for {counted(days, 'day')}, audit trails for {counted(audit or days, 'day')}")


@check(
    "Retention keeps up", Need.SCHEMA, fix="check that beat and a worker run, and the worker's log; `dspex retention`"
)
def retired(deployment: Deployment) -> Finding:
    """Periods older than DSPEX_RETENTION_DAYS have been retired; executions that are not settled stay."""
    days = deployment.settings.retention_days
    if days is None:
        return not_applicable("everything is kept for ever")
    limit = first_id(deployment.ask(server_facts.now) - timedelta(days=days + LATE_DAYS))
    late = [p.name for p in deployment.ask(retention_store.periods) if p.high < limit and not p.retired_at]
    if late:
        return not_met(f"still there: {', '.join(late[:5])}")
    return met(f"nothing is older than {counted(days, 'day')} and a period")
