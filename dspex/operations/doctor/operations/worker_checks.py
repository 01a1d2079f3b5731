"""Workers and duties: nobody is in trouble, one leads the pump, and beat is heard."""

from __future__ import annotations

import socket

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_met, skipped, unknown, warning
from dspex.operations.doctor.deployment import Deployment

#: Deaths in an hour from which on it is no accident.
MANY_DEATHS = 3
#: Health checks that may fail to come before beat is taken to be gone.
MISSED = 4


@check("No worker is in trouble", Need.SCHEMA, mend="see its log; `dspex workers` tells where its loop is blocked")
def trouble(deployment: Deployment) -> Finding:
    """No live worker says that something keeps it from its work: a blocked loop, lost threads."""
    told = [f"{w['host']} (pid {w['pid']}): {w['trouble']}" for w in deployment.live_workers if w["trouble"]]
    if not deployment.live_workers:
        return unknown("no worker is alive", mend="start one: `dspex worker`")
    return not_met("; ".join(told)) if told else met(f"none of {counted(len(deployment.live_workers), 'worker')} is")


@check("No lease has run out unnoticed", Need.SCHEMA, mend="start a worker: its pump takes the work of dead ones back")
def leases(deployment: Deployment) -> Finding:
    """A worker whose lease ran out is declared dead within a second or two; if not, nobody looks for dead workers."""
    silent = [w for w in deployment.workers if w["heartbeat_age_seconds"] > w["lease_seconds"] + 5]
    if not silent:
        return met("none")
    told = [f"{w['host']} (pid {w['pid']}) silent for {w['heartbeat_age_seconds']:,.0f} s" for w in silent[:3]]
    return not_met(f"{len(silent)}: {', '.join(told)}")


@check(
    "The pump has a leader", Need.SCHEMA, mend="start a worker; if one is alive, see its log for what the pump meets"
)
def pump(deployment: Deployment) -> Finding:
    """One worker dispatches what is due and takes back what dead workers held; any other takes over within seconds."""
    rows = deployment.rows("""SELECT w.host, w.pid, extract(epoch FROM now() - l.expires_at)::float8 AS late
        FROM dspex.leaderships l LEFT JOIN dspex.workers w ON w.id = l.worker_id WHERE l.duty = 'pump'""")
    if not rows:
        return not_met("nobody leads")
    if rows[0].late > 5:
        return not_met(f"its lead ran out {rows[0].late:,.0f} s ago")
    return met(f"{rows[0].host} (pid {rows[0].pid})")


@check("Beat is heard", Need.SCHEMA, mend="start one: `dspex beat`; and see whether workers answer its tasks")
def beat(deployment: Deployment) -> Finding:
    """A health check that beat asked for was stored lately. Without beat nothing is lost, but nobody watches."""
    row = deployment.row("SELECT extract(epoch FROM now() - max(at))::float8 AS age FROM dspex.health_checks")
    interval = deployment.settings.health_interval_seconds
    if row.age is None:
        return warning("never")
    said = f"{row.age:,.0f} s ago, every {interval:g} s"
    return met(said) if row.age < MISSED * interval else warning(said)


@check(
    "Workers do not die again and again",
    Need.SCHEMA,
    mend="see their logs and the kernel's: out of memory? which executions are poisoned?",
)
def deaths(deployment: Deployment) -> Finding:
    """Workers that were declared dead within the last hour."""
    count = deployment.value(
        "SELECT count(*) FROM dspex.workers WHERE state = 'dead' AND stopped_at > now() - interval '1 hour'"
    )
    said = f"{count} in the last hour"
    return warning(said, count=count) if count >= MANY_DEATHS else met(said, count=count)


@check("Workers may open enough files", Need.SCHEMA, mend="ulimit -n 65536, or LimitNOFILE=65536 in the unit")
def files(deployment: Deployment) -> Finding:
    """The workers on this machine may open as many files as their executions at once need for connections."""
    try:
        import psutil
    except ImportError:
        return skipped("psutil is not installed here")
    here = [w for w in deployment.live_workers if w["host"] == socket.gethostname() and psutil.pid_exists(w["pid"])]
    if not here or not hasattr(psutil, "RLIMIT_NOFILE"):
        return skipped("no worker runs on this machine")
    low = []
    for worker in here:
        most, _ = psutil.Process(worker["pid"]).rlimit(psutil.RLIMIT_NOFILE)
        if most < worker["concurrency"] * 2 + 100:
            low.append(f"pid {worker['pid']}: {most:,} for {worker['concurrency']} executions at once")
    return warning("; ".join(low)) if low else met(f"{counted(len(here), 'worker')} here")
