"""The worker host: workers are alive, answer, retry after a failure, and are replaced when they die."""

from __future__ import annotations

import time

from dspex.operations.doctor.check import Finding, Need, check, counted, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING, RESULT_SECONDS, RETRYING, submit
from dspex.store.facts import worker_facts

#: An execution of a dead worker must run again within so long.
RECOVERY_SECONDS = 10.0
#: How often the pump's leader looks for dead workers, and how soon a new leader takes over.
REAPER_SECONDS, LEAD_SECONDS = 1.0, 2.0
#: A longer mean round trip is a sign of a bottleneck, in milliseconds.
SLOW_MS = 1000.0
ROUND_TRIPS = 10


@check("Workers are alive", Need.SCHEMA, fix="start one: `dspex worker`; if one runs, read its log")
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
    evidence = f"{counted(len(live), 'worker')} on {counted(hosts, 'host')}, {slots} slots"
    return met(f"{evidence}, last heartbeat at most {oldest:.1f} s ago")


@check(
    "Workers answer",
    Need.WORKER,
    fix="see `dspex bench`: it names the bottleneck",
    seconds=RESULT_SECONDS + 5,
)
def answers(deployment: Deployment) -> Finding:
    """Executions that do nothing go from here to a worker and back, one after the other, and all return soon."""
    submit(deployment, ANSWERING, "awake?").result(RESULT_SECONDS)
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        submit(deployment, ANSWERING, "are you there?").result(RESULT_SECONDS)
        times.append((time.perf_counter() - began) * 1000)
    average = sum(times) / len(times)
    evidence = f"{ROUND_TRIPS} of {ROUND_TRIPS}, {average:.0f} ms on average, {max(times):.0f} ms at most"
    return (met if average < SLOW_MS else warning)(evidence, mean_ms=average, most_ms=max(times))


@check(
    "A failed attempt is retried",
    Need.WORKER,
    fix="see `dspex list --program dspex-doctor-retrying`",
    seconds=RESULT_SECONDS + 5,
)
def error_recovery(deployment: Deployment) -> Finding:
    """A program whose model fails once completes in its second attempt, and its audit trail has the retry."""
    execution = submit(deployment, RETRYING, "again?")
    execution.result(RESULT_SECONDS)
    recovered = execution.attempts > 1 and "retried" in execution.audit_trail.kinds
    evidence = f"completed in attempt {execution.attempts}"
    return met(evidence) if recovered else not_met(f"{evidence}: the failure did not occur")


@check(
    "Work of a dead worker runs again within 10 s",
    Need.SCHEMA,
    fix="set DSPEX_LEASE_SECONDS to 7 or less on every worker",
)
def crash_recovery(deployment: Deployment) -> Finding:
    """The leases of the workers bound the time, and so do the last deaths; no worker is killed to measure it."""
    if not deployment.live_workers:
        return not_applicable("no worker is alive")
    lease = max(w["lease_seconds"] for w in deployment.live_workers)
    bound = lease + REAPER_SECONDS + LEAD_SECONDS
    deaths = deployment.ask(worker_facts.deaths, hours=24, most=20)
    evidence = f"leases of {lease:g} s and a look each second: {bound:g} s at most"
    if bound > RECOVERY_SECONDS:
        return not_met(evidence, bound_seconds=bound)
    if deaths:
        noticed = max(death.noticed_seconds for death in deaths)
        evidence += f"; of {counted(len(deaths), 'death')} in 24 h the slowest was noticed after {noticed:.1f} s"
    return met(evidence, bound_seconds=bound)
