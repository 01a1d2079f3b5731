"""Postgres: it takes writes, has room for every connection, and is set up to keep what it committed."""

from __future__ import annotations

import time

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.store.facts import role_facts, server_facts
from dspex.store.migrate import ENCODING
from dspex.store.sessions import is_pooled

#: Connections of a worker process: claims, settlements, journal, reads, budgets, lease, pump, and one to spare.
WORKER_CONNECTIONS = 9
NEARLY_ALL = 0.8
#: A transaction that is open for so long keeps VACUUM from working, in seconds.
LONG_SECONDS = 3600
SLOW_MS = 20.0
PINGS = 5


@check("Postgres answers", fix="start Postgres, or correct DSPEX_DATABASE_URL; see its log")
def reachable(deployment: Deployment) -> Finding:
    """Postgres accepts a connection with the settings here, and a statement takes a few milliseconds."""
    if Need.POSTGRES in deployment.missing:
        return not_met(deployment.reasons[Need.POSTGRES])
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        deployment.ask(server_facts.ping)
        times.append((time.perf_counter() - began) * 1000)
    took = min(times)  # the others connected, or waited for this process
    return (met if took < SLOW_MS else warning)(f"{deployment.database_where}, {took:.1f} ms", took_ms=took)


@check("Postgres takes writes", Need.POSTGRES, fix="point DSPEX_DATABASE_URL at the primary")
def writable(deployment: Deployment) -> Finding:
    """It is the primary, not a standby or a server set to read-only."""
    server = deployment.ask(server_facts.state)
    if server.standby:
        return not_met("it is a standby")
    return not_met("default_transaction_read_only is on") if server.read_only else met("a primary, read and write")


@check("This role has a producer's rights", Need.SCHEMA, fix="run `dspex migrate --roles`, or GRANT the missing rights")
def privileges(deployment: Deployment) -> Finding:
    """This role may read and write the tables as a producer does."""
    rights = deployment.ask(role_facts.producer_rights)
    if rights.lacking:
        return not_met(f"{rights.role} lacks {', '.join(rights.lacking)}")
    return met(f"{rights.role}: all {rights.needed} rights")


@check(
    "There is room for every connection",
    Need.SCHEMA,
    fix="raise max_connections, and the CONNECTION LIMIT of the role or the database that has one; run fewer worker "
    "processes, or use pgbouncer",
)
def connections(deployment: Deployment) -> Finding:
    """max_connections covers what the live workers and a producer may open, and is not nearly used up. Neither is a
    CONNECTION LIMIT of the database, or of a role."""
    server = deployment.ask(server_facts.state)
    workers = len(deployment.live_workers)
    producer = 2 * deployment.settings.client_connections  # an AsyncClient has as many again for its threads
    needed = workers * WORKER_CONNECTIONS + producer + server.reserved_connections
    most, used = server.max_connections, server.connections
    limits = deployment.ask(server_facts.connection_limits)
    evidence = f"{used} of {most} used; {counted(workers, 'worker')} and a producer need up to {needed}"
    evidence = "; ".join([evidence, *(f"{limit.of}: {limit.used} of {limit.most} used" for limit in limits)])
    too_few = needed > most or any(limit.own and producer > limit.most for limit in limits)
    nearly_used = used > NEARLY_ALL * most or any(limit.used > NEARLY_ALL * limit.most for limit in limits)
    verdict = not_met if too_few and not is_pooled(deployment.database.url) else warning if nearly_used else met
    return verdict(evidence, most=most, used=used, needed=needed)


@check("The database's encoding", Need.POSTGRES, fix="create it with ENCODING 'UTF8' TEMPLATE template0")
def encoding(deployment: Deployment) -> Finding:
    """The encoding is UTF8, in which every text can be stored."""
    found = deployment.ask(server_facts.settings, "server_encoding")["server_encoding"]
    return met(ENCODING) if found == ENCODING else not_met(f"it is {found}")


@check("A commit is durable", Need.POSTGRES, fix="set fsync, full_page_writes and synchronous_commit to on")
def durable(deployment: Deployment) -> Finding:
    """A submitted execution survives a crash of Postgres and of its machine: fsync and synchronous commits are on."""
    values = deployment.ask(server_facts.settings, "fsync", "full_page_writes", "synchronous_commit")
    off = [name for name, value in values.items() if value == "off"]
    if not off:
        return met(", ".join(f"{name} {value}" for name, value in values.items()))
    return (not_met if deployment.production else warning)(f"off: {', '.join(off)}")


@check("No transaction is left open", Need.POSTGRES, fix="end it: SELECT pg_terminate_backend(PID)")
def long_transactions(deployment: Deployment) -> Finding:
    """A transaction that stays open for hours keeps dead rows from being removed, in every table."""
    found = deployment.ask(server_facts.open_transactions, seconds=LONG_SECONDS)
    if not found:
        if deployment.ask(server_facts.sees_all_sessions):
            return met("none older than an hour")
        return not_applicable("this role has none older than an hour, and may not see the transactions of other roles")
    named = [f"pid {t.pid} ({t.application_name or 'unnamed'}) for {t.seconds / 3600:.1f} h" for t in found]
    return warning(", ".join(named))


@check("The tables are vacuumed", Need.SCHEMA, fix="check whether autovacuum keeps up: pg_stat_user_tables")
def vacuumed(deployment: Deployment) -> Finding:
    """Dead rows do not outnumber the live ones in any table that is not small."""
    if deployment.ask(server_facts.settings, "autovacuum")["autovacuum"] != "on":
        return not_met("autovacuum is off")
    if tables := deployment.ask(server_facts.dead_rows):
        return warning(", ".join(f"{t.table}: {t.dead:,} dead rows, {t.live:,} live" for t in tables))
    return met("autovacuum is on, and keeps up")


@check("Connections are sessions", Need.POSTGRES, fix="end DSPEX_DATABASE_URL with ?pgbouncer=true")
def pooling(deployment: Deployment) -> Finding:
    """Behind a pooler that gives each transaction another session, the URL ends with ?pgbouncer=true: then DSPex
    prepares no statements. Nothing else in DSPex depends on sessions."""
    declared = is_pooled(deployment.database.url)
    if server_facts.backends_used(deployment.database.url) == 1:
        return met("direct, or pooled by session" + ("; the URL has pgbouncer=true" if declared else ""))
    return met("pooled by transaction, as the URL declares") if declared else not_met("pooled by transaction")


@check(
    "The kernel's limits",
    Need.SETTINGS,
    fix="sysctl vm.overcommit_memory=1 where Redis saves to disk; ulimit -n 65536 for workers",
)
def machine(deployment: Deployment) -> Finding:
    """This machine allows memory overcommit, and as many open files as a worker's executions need."""
    try:
        import resource

        with open("/proc/sys/vm/overcommit_memory") as file:
            overcommit = int(file.read())
    except (ImportError, OSError):
        return not_applicable("this machine does not expose its limits")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = deployment.settings.worker_concurrency * 2 + 100
    evidence = f"vm.overcommit_memory {overcommit}, {files:,} open files allowed, {wanted:,} wanted"
    return warning(evidence) if overcommit == 2 or files < wanted else met(evidence)
