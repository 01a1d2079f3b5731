"""The worker host: workers are there, answer, try again after a failure, and are replaced when they die."""

from __future__ import annotations

import time

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_met, skipped, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING, PATIENCE_SECONDS, RETRYING, submit

#: In which an execution of a dead worker must run again.
RECOVERY_SECONDS = 10.0
#: The pump's leader looks for dead workers so often, and takes over within so long when its predecessor was the dead.
REAPER_SECONDS, LEAD_SECONDS = 1.0, 2.0
#: A mean answer that takes longer says that something is in the way, in milliseconds.
SLOW_MS = 1000.0
ROUND_TRIPS = 10


@check("Workers are alive", Need.SCHEMA, mend="start one: `dspex worker`; if one runs, look at its log")
def alive(deployment: Deployment) -> Finding:
    """At least one worker holds its lease and takes work."""
    live = deployment.live_workers
    if not live:
        ages = [
            f"{w['host']} (pid {w['pid']}) silent for {w['heartbeat_age_seconds']:.0f} s" for w in deployment.workers
        ]
        return not_met("none" + (f"; {ages[0]}" if ages else ""))
    oldest = max(w["heartbeat_age_seconds"] for w in live)
    hosts = len({w["host"] for w in live})
    slots = sum(w["concurrency"] for w in live)
    said = f"{counted(len(live), 'worker')} on {counted(hosts, 'host')}, {slots} slots"
    return met(f"{said}, last heartbeat at most {oldest:.1f} s ago")


@check(
    "Workers answer",
    Need.WORKER,
    mend="see `dspex bench`: it says where the deployment is bound",
    seconds=PATIENCE_SECONDS + 5,
)
def answers(deployment: Deployment) -> Finding:
    """Executions that do nothing go from here to a worker and back, one after the other, all of them, and soon."""
    submit(deployment, ANSWERING, "awake?").result(PATIENCE_SECONDS)
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        submit(deployment, ANSWERING, "are you there?").result(PATIENCE_SECONDS)
        times.append((time.perf_counter() - began) * 1000)
    average = sum(times) / len(times)
    said = f"{ROUND_TRIPS} of {ROUND_TRIPS}, {average:.0f} ms on average, {max(times):.0f} ms at most"
    return (met if average < SLOW_MS else warning)(said, mean_ms=average, most_ms=max(times))


@check(
    "A failed attempt is made again",
    Need.WORKER,
    mend="see `dspex list --program dspex-doctor-retrying`",
    seconds=PATIENCE_SECONDS + 5,
)
def error_recovery(deployment: Deployment) -> Finding:
    """A program whose model fails once, and may be retried, completes, and its trail tells of the retry."""
    execution = submit(deployment, RETRYING, "again?")
    execution.result(PATIENCE_SECONDS)
    recovered = execution.attempts > 1 and "retried" in execution.audit_trail.kinds
    said = f"completed in attempt {execution.attempts}"
    return met(said) if recovered else not_met(f"{said}: its failure was not made to happen")


@check(
    "Work of a dead worker runs again within 10 s",
    Need.SCHEMA,
    mend="set DSPEX_LEASE_SECONDS to 7 or less on every worker",
)
def crash_recovery(deployment: Deployment) -> Finding:
    """No worker is killed to see it: the leases in force bound the time, and so does how the last deaths went."""
    if not deployment.live_workers:
        return skipped("no worker is alive")
    lease = max(w["lease_seconds"] for w in deployment.live_workers)
    bound = lease + REAPER_SECONDS + LEAD_SECONDS
    deaths = deployment.rows("""
        SELECT host, pid, extract(epoch FROM stopped_at - heartbeat_at)::float8 AS noticed FROM dspex.workers
        WHERE state = 'dead' AND stopped_at > now() - interval '1 day' ORDER BY stopped_at DESC LIMIT 20""")
    said = f"leases of {lease:g} s and a look each second: {bound:g} s at most"
    if bound > RECOVERY_SECONDS:
        return not_met(said, bound_seconds=bound)
    if deaths:
        noticed = max(death.noticed for death in deaths)
        said += f"; of {counted(len(deaths), 'death')} in 24 h the slowest was noticed after {noticed:.1f} s"
    return met(said, bound_seconds=bound)
