"""Postgres: it can be written, has room for every connection, and is set up to keep what it was given."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_met, skipped, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.store.roles import ROLES, WRITES
from dspex.store.sessions import is_pooled, libpq_url
from dspex.store.tables import lm_calls, metadata

#: What a worker process holds open: claims, settlements, journal, reads, budgets, lease, pump, and one for a moment.
WORKER_CONNECTIONS = 8
#: What a producer's pool may grow to.
PRODUCER_CONNECTIONS = 15
NEARLY_ALL = 0.8
#: A transaction that is open for so long keeps VACUUM from its work, in seconds.
LONG_SECONDS = 3600
SLOW_MS = 20.0
ASKED = 5
PRODUCER = ROLES[0]
_RIGHT = re.compile(r"(\w+)(?: \(([^)]*)\))?")


@check("Postgres answers", mend="start Postgres, or correct DSPEX_DATABASE_URL; see its log")
def reachable(deployment: Deployment) -> Finding:
    """Postgres can be connected to with the settings here, and a question takes a few milliseconds."""
    if Need.POSTGRES in deployment.missing:
        return not_met(deployment.reasons[Need.POSTGRES])
    times = []
    for _ in range(ASKED):
        began = time.perf_counter()
        deployment.value("SELECT 1")
        times.append((time.perf_counter() - began) * 1000)
    took = min(times)  # the others connected, or waited for this process
    return (met if took < SLOW_MS else warning)(f"{deployment.database_where}, {took:.1f} ms", took_ms=took)


@check("Postgres takes writes", Need.POSTGRES, mend="point DSPEX_DATABASE_URL at the primary")
def writable(deployment: Deployment) -> Finding:
    """It is the primary, not a standby or a server set to read-only."""
    row = deployment.row("""SELECT pg_is_in_recovery() AS standby,
        current_setting('default_transaction_read_only') = 'on' AS locked""")
    if row.standby:
        return not_met("it is a standby")
    return not_met("default_transaction_read_only is on") if row.locked else met("a primary, read and write")


@check("This role may do what a producer must", Need.SCHEMA, mend="run `dspex migrate --roles`, or GRANT what is named")
def privileges(deployment: Deployment) -> Finding:
    """It may read and write the tables as a producer does."""
    rights = [(table, right, column) for table, text in WRITES[PRODUCER].items() for right, column in _rights(text)]
    rights += [(table.name, "SELECT", "") for table in metadata.tables.values() if table is not lm_calls]
    rows = deployment.rows(
        """SELECT t, r, c, CASE WHEN c = '' THEN has_table_privilege('dspex.' || t, r)
                ELSE has_column_privilege('dspex.' || t, c, r) END AS allowed
            FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[]), CAST(:columns AS text[])) AS q (t, r, c)""",
        tables=[table for table, _, _ in rights],
        rights=[right for _, right, _ in rights],
        columns=[column for _, _, column in rights],
    )
    role = deployment.value("SELECT current_user")
    lacking = sorted({f"{row.r} on {row.t}" for row in rows if not row.allowed})
    if lacking:
        return not_met(f"{role} lacks {', '.join(lacking)}")
    return met(f"{role}: {len(rows)} rights on {len(metadata.tables)} tables")


@check(
    "There is room for every connection",
    Need.SCHEMA,
    mend="raise max_connections, run fewer worker processes, or put pgbouncer in between",
)
def connections(deployment: Deployment) -> Finding:
    """max_connections covers what the live workers and a producer may hold open, and is not nearly used up."""
    row = deployment.row("""SELECT current_setting('max_connections')::int AS most,
        current_setting('superuser_reserved_connections')::int AS reserved,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS used""")
    workers = len(deployment.live_workers)
    needed = workers * WORKER_CONNECTIONS + PRODUCER_CONNECTIONS + row.reserved
    said = f"{row.used} of {row.most} used; {counted(workers, 'worker')} and a producer need up to {needed}"
    figures = {"most": row.most, "used": row.used, "needed": needed}
    if needed > row.most and not is_pooled(deployment.database.url):
        return not_met(said, **figures)
    return (warning if row.used > NEARLY_ALL * row.most else met)(said, **figures)


@check("A commit is durable", Need.POSTGRES, mend="set fsync, full_page_writes and synchronous_commit to on")
def durable(deployment: Deployment) -> Finding:
    """What submit returned survives a crash of Postgres and its machine: fsync and synchronous commits are on."""
    names = ("fsync", "full_page_writes", "synchronous_commit")
    values = {name: str(deployment.value(f"SHOW {name}")) for name in names}
    off = [name for name, value in values.items() if value == "off"]
    if not off:
        return met(", ".join(f"{name} {value}" for name, value in values.items()))
    return (not_met if deployment.production else warning)(f"off: {', '.join(off)}")


@check("No transaction is left open", Need.POSTGRES, mend="end it: SELECT pg_terminate_backend(PID)")
def long_transactions(deployment: Deployment) -> Finding:
    """A transaction that stays open for hours keeps dead rows from being cleared away, in every table."""
    rows = deployment.rows("""
        SELECT pid, application_name, extract(epoch FROM now() - xact_start)::float8 AS seconds FROM pg_stat_activity
        WHERE xact_start < now() - make_interval(secs => :most) AND backend_type = 'client backend'
        ORDER BY xact_start LIMIT 5""", most=LONG_SECONDS)  # fmt: skip
    if not rows:
        return met("none older than an hour")
    told = ", ".join(f"pid {r.pid} ({r.application_name or 'unnamed'}) for {r.seconds / 3600:.1f} h" for r in rows)
    return warning(told)


@check("The tables are vacuumed", Need.SCHEMA, mend="see whether autovacuum keeps up: pg_stat_user_tables")
def vacuumed(deployment: Deployment) -> Finding:
    """Dead rows do not outnumber the live ones in a table that is not small."""
    rows = deployment.rows("""
        SELECT relname, n_live_tup AS live, n_dead_tup AS dead FROM pg_stat_user_tables
        WHERE schemaname = 'dspex' AND n_dead_tup > 100000 AND n_dead_tup > n_live_tup ORDER BY n_dead_tup DESC""")
    autovacuum = deployment.value("SHOW autovacuum") == "on"
    if not autovacuum:
        return not_met("autovacuum is off")
    if rows:
        return warning(", ".join(f"{r.relname}: {r.dead:,} dead rows, {r.live:,} live" for r in rows))
    return met("autovacuum is on, and keeps up")


@check(
    "Connections are sessions",
    Need.POSTGRES,
    mend="end DSPEX_DATABASE_URL with ?pgbouncer=true",
)
def pooling(deployment: Deployment) -> Finding:
    """Behind a pooler that gives each transaction another connection, the URL says ?pgbouncer=true: then nothing is
    prepared in a session. Nothing else of DSPex depends on sessions."""
    said = is_pooled(deployment.database.url)
    url = libpq_url(deployment.database.url)
    arguments: dict[str, Any] = {"autocommit": True, "connect_timeout": 5, "prepare_threshold": None}
    with (
        psycopg.connect(url, **arguments) as one,
        psycopg.connect(url, **arguments) as other,
    ):
        seen: set[int] = set()
        for _ in range(3):
            with other.transaction():  # takes a connection of the pool's while the first one asks
                other.execute("SELECT 1")
                row = one.execute("SELECT pg_backend_pid()").fetchone()
                seen.add(int(row[0]) if row else 0)
            row = one.execute("SELECT pg_backend_pid()").fetchone()
            seen.add(int(row[0]) if row else 0)
    if len(seen) == 1:
        return met("direct, or pooled by session" + ("; the URL says pgbouncer=true" if said else ""))
    return met("pooled by transaction, as the URL says") if said else not_met("pooled by transaction")


@check(
    "The kernel and the machine",
    Need.SETTINGS,
    mend="sysctl vm.overcommit_memory=1 where Redis saves to disk; ulimit -n 65536 for workers",
)
def machine(deployment: Deployment) -> Finding:
    """This machine lets processes promise memory, and open as many files as a worker's executions need."""
    try:
        import resource

        with open("/proc/sys/vm/overcommit_memory") as file:
            overcommit = int(file.read())
    except (ImportError, OSError):
        return skipped("this machine does not tell")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = deployment.settings.worker_concurrency * 2 + 100
    said = f"vm.overcommit_memory {overcommit}, {files:,} open files allowed, {wanted:,} wanted"
    return warning(said) if overcommit == 2 or files < wanted else met(said)


def _rights(text: str) -> Iterator[tuple[str, str]]:
    """Each right of a grant such as ``INSERT (a, b), UPDATE``, with each of its columns, or none."""
    for right, columns in _RIGHT.findall(text):
        yield from ((right, column.strip()) for column in columns.split(","))
