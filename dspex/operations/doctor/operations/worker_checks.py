"""Workers and their duties: none reports trouble, one leads the pump, and beat runs."""

from __future__ import annotations

import socket

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_applicable, not_met, unknown, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.health.backend_checks import gap_seconds
from dspex.store.facts import worker_facts
from dspex.store.operations import health

#: As many deaths in an hour are no accident.
MANY_DEATHS = 3
#: Deaths that are counted at most.
MOST_DEATHS = 10_000
#: The pump's lead may have ended so many seconds ago while another worker takes over.
LEAD_GRACE_SECONDS = 5.0


@check("No worker reports trouble", Need.SCHEMA, fix="read its log; `dspex workers` shows where its loop is blocked")
def trouble(deployment: Deployment) -> Finding:
    """No live worker reports something that keeps it from working, such as a blocked loop or lost threads."""
    reports = [f"{w['host']} (pid {w['pid']}): {w['trouble']}" for w in deployment.live_workers if w["trouble"]]
    if not deployment.live_workers:
        return unknown("no worker is alive", fix="start one: `dspex worker`")
    return not_met("; ".join(reports)) if reports else met(f"{counted(len(deployment.live_workers), 'worker')}")


@check("Expired leases are noticed", Need.SCHEMA, fix="start a worker: its pump recovers the work of dead workers")
def leases(deployment: Deployment) -> Finding:
    """A worker whose lease expired is declared dead within a second or two, unless no other worker is alive."""
    silent = [w for w in deployment.workers if not w["live"] and w["heartbeat_age_seconds"] > w["lease_seconds"] + 5]
    if not silent:
        return met("none")
    named = [f"{w['host']} (pid {w['pid']}) silent for {w['heartbeat_age_seconds']:,.0f} s" for w in silent[:3]]
    return not_met(f"{len(silent)}: {', '.join(named)}")


@check("The pump has a leader", Need.SCHEMA, fix="start a worker; if one is alive, read its log for the pump's errors")
def pump(deployment: Deployment) -> Finding:
    """One worker dispatches due executions and recovers those that dead workers held; another takes over soon."""
    leader = deployment.ask(health.leader, "pump")
    if leader is None:
        return not_met("no worker leads")
    if leader["overdue_seconds"] > LEAD_GRACE_SECONDS:
        return not_met(f"its lead ended {leader['overdue_seconds']:,.0f} s ago")
    return met(f"{leader['host']} (pid {leader['pid']})")


@check(
    "The pump's leader does all its duties",
    Need.SCHEMA,
    fix="read its log; `dspex audit verify` shows what is wrong with the trail of an execution that cannot be changed",
)
def duties(deployment: Deployment) -> Finding:
    """Duties that fail are done again; executions that Postgres refuses to change are set aside and tried again."""
    leader = deployment.ask(health.leader, "pump")
    trouble = leader["trouble"] if leader is not None else None
    if not trouble:
        return met("none failed")
    named = {**trouble["duties"], **trouble["executions"]}
    evidence = "; ".join(f"{name}: {why}" for name, why in list(named.items())[:3])
    return not_met(evidence, set_aside=trouble["set_aside"])


@check("Beat runs", Need.SCHEMA, fix="start it: `dspex beat`; and check that workers consume its tasks")
def beat(deployment: Deployment) -> Finding:
    """A health check that beat requested was stored recently. Without beat nothing is lost, but nothing is watched."""
    latest = deployment.ask(health.latest)
    if latest is None:
        return warning("never")
    interval = latest["report"].get("interval_seconds", deployment.settings.health_interval_seconds)
    evidence = f"{latest['age_seconds']:,.0f} s ago, every {interval:g} s"
    return (met if latest["age_seconds"] <= gap_seconds(interval) else warning)(evidence)


@check(
    "Workers do not die repeatedly",
    Need.SCHEMA,
    fix="read their logs and the kernel's: out of memory? which executions are poisoned?",
)
def deaths(deployment: Deployment) -> Finding:
    """Workers that were declared dead within the last hour."""
    count = len(deployment.ask(worker_facts.deaths, hours=1, most=MOST_DEATHS))
    return (warning if count >= MANY_DEATHS else met)(f"{count} in the last hour", count=count)


@check("Workers may open enough files", Need.SCHEMA, fix="ulimit -n 65536, or LimitNOFILE=65536 in the unit")
def files(deployment: Deployment) -> Finding:
    """Workers on this machine may open as many files as their concurrent executions need for connections."""
    try:
        import psutil
    except ImportError:
        return not_applicable("psutil is not installed here")
    here = [w for w in deployment.live_workers if w["host"] == socket.gethostname() and psutil.pid_exists(w["pid"])]
    if not here or not hasattr(psutil, "RLIMIT_NOFILE"):
        return not_applicable("no worker runs on this machine")
    low = []
    for worker in here:
        most, _ = psutil.Process(worker["pid"]).rlimit(psutil.RLIMIT_NOFILE)
        if most < worker["concurrency"] * 2 + 100:
            low.append(f"pid {worker['pid']}: {most:,} for {worker['concurrency']} concurrent executions")
    return warning("; ".join(low)) if low else met(f"{counted(len(here), 'worker')} here")
