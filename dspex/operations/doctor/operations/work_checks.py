"""Work under way: nothing is stuck, kills its workers, or waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from dspex.errors import ExecutionNotFound
from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.publish.broker import queue_depth
from dspex.store.facts import program_facts, work_facts
from dspex.store.facts.work_facts import FoundExecutions
from dspex.store.lifecycle import parked

#: Work that has waited so long although workers are alive is a sign, in seconds.
LONG_WAIT = 300
#: An attempt that runs so long past its deadline is not ended any more, in seconds.
OVERDUE = 60
#: Waits that are longer are a sign, in seconds: providers answer batches within a day.
FORGOTTEN = {"approval": 86_400, "batch": 26 * 3600, "child": 86_400}
#: Audit trails that are verified.
TRAILS = 50


@check("Work does not wait", Need.SCHEMA, fix="start more workers; see `dspex bench` and `dspex list --status queued`")
def waiting(deployment: Deployment) -> Finding:
    """Due executions start within minutes, unless their program is paused, or its concurrency or rate is limited."""
    due = deployment.ask(work_facts.due)
    evidence = f"{due.count:,} due, the oldest for {due.oldest_seconds:,.0f} s"
    if due.limited:
        evidence += f"; {due.limited:,} of programs with limits, the oldest for {due.oldest_limited_seconds:,.0f} s"
    verdict = not_met if due.oldest_seconds > LONG_WAIT else met
    return verdict(evidence, due=due.count, oldest_seconds=due.oldest_seconds)


@check(
    "No paused program has a backlog",
    Need.SCHEMA,
    fix="dspex resume NAME; if its budget is spent, first deploy it with a higher limits.max_cost_usd",
)
def paused(deployment: Deployment) -> Finding:
    """A paused program starts no execution until it is resumed."""
    programs = deployment.ask(work_facts.paused_programs)
    waiting = [f"{p.name} ({p.reason or 'by an operator'}): {p.queued:,} queued" for p in programs if p.queued]
    return warning("; ".join(waiting)) if waiting else met(f"{len(programs)} paused, none has queued executions")


@check(
    "Workers can run the deployed programs",
    Need.WORKER,
    fix="install on these workers what the reason names and restart them, or deploy a version that they can run",
)
def runnable(deployment: Deployment) -> Finding:
    """An execution whose program no live worker can run waits for one that can; it does not fail."""
    refused = deployment.ask(program_facts.refused_versions)
    if not refused:
        return met("every live worker can run every deployed version")
    named = [f"{r.program} {r.version} cannot run in {r.where} ({r.held:,} wait): {r.reason}" for r in refused[:3]]
    verdict = not_met if any(each.by_all for each in refused) else warning
    return verdict("; ".join(named), versions=len(refused), waiting=sum(each.held for each in refused))


@check(
    "No wait is forgotten",
    Need.SCHEMA,
    fix="decide about calls: `dspex approvals`; see `dspex bundles --open`, and the children with `dspex list`",
)
def parked_work(deployment: Deployment) -> Finding:
    """An execution that waits for an approval, a provider's batch or a child goes on within a day or so."""
    waits = deployment.ask(parked.waits)
    described = [
        f"{wait.executions:,} for {wait.waiting_for}, the oldest for {wait.oldest_seconds / 3600:,.1f} h"
        for wait in waits
    ]
    seen = {w.waiting_for: w.executions for w in waits}
    if any(wait.oldest_seconds > FORGOTTEN[wait.waiting_for] for wait in waits):
        return warning("; ".join(described), "", **seen)
    return met("; ".join(described) or "none waits", **seen)


@check("No dead worker holds executions", Need.SCHEMA, fix="start a worker: its pump recovers them within seconds")
def orphaned(deployment: Deployment) -> Finding:
    """Executions of a worker whose lease expired are recovered within seconds, if another worker is alive."""
    return _none(deployment.ask(work_facts.held_by_dead_workers))


@check("No execution is long past its deadline", Need.SCHEMA, fix="see `dspex show ID` and the log of its worker")
def overdue(deployment: Deployment) -> Finding:
    """An attempt that does not end at its deadline is taken from its worker some seconds later."""
    return _none(deployment.ask(work_facts.overdue, seconds=OVERDUE))


@check(
    "Dispatched executions are claimed",
    Need.SCHEMA,
    Need.REDIS,
    fix="check that workers consume: `dspex workers`; and the pump's leader: `dspex doctor --only workers`",
)
def unclaimed(deployment: Deployment) -> Finding:
    """An execution whose id is queued in Redis is claimed soon; one that waits for minutes lacks a message or a
    worker."""
    found = deployment.ask(work_facts.unclaimed, seconds=LONG_WAIT)
    with deployment.redis() as client:
        messages = queue_depth(client)
    if found.count:
        evidence = f"{found.count:,}, such as {found.example}; Redis holds {messages:,} messages"
        return not_met(evidence, count=found.count)
    return met(f"none; Redis holds {messages:,} messages")


@check(
    "No execution killed its workers",
    Need.SCHEMA,
    fix="dspex show ID names the workers; fix the program before `dspex retry ID`",
)
def poisoned(deployment: Deployment) -> Finding:
    """An execution whose worker died in every attempt fails as poisoned: its program or its input is dangerous."""
    return _failures(deployment, not_met, poisoned=True)


@check(
    "Failed executions are dealt with",
    Need.SCHEMA,
    fix="`dspex list --status failed`; fix the cause, then `dspex retry --failed`",
)
def dead_letters(deployment: Deployment) -> Finding:
    """Executions that failed within a week and have not been retried."""
    return _failures(deployment, warning, poisoned=False)


@check("Audit trails are complete", Need.SCHEMA, fix="dspex audit; then find out who can write to the database")
def trails(deployment: Deployment) -> Finding:
    """The hash chains of the latest executions are computed again; `dspex audit` does it for all."""
    ids = deployment.ask(work_facts.latest_ids, TRAILS)
    broken = []
    for id in ids:
        with suppress(ExecutionNotFound):  # retention removed it meanwhile
            verified = deployment.client.audit_trail(id).verify()
            broken += [f"{id}: {fault}" for fault in verified.faults]
    if broken:
        return not_met("; ".join(broken[:3]))
    return met(f"{len(ids)} verified") if ids else not_applicable("there is no execution yet")


def _none(found: FoundExecutions) -> Finding:
    if not found.count:
        return met("none")
    return not_met(f"{found.count}, such as {found.example}", count=found.count)


def _failures(deployment: Deployment, verdict: Callable[..., Finding], *, poisoned: bool) -> Finding:
    found = deployment.ask(work_facts.failed, poisoned=poisoned)
    if not found.count:
        return met("none within a week")
    return verdict(f"{found.count:,} within a week, the latest {found.example}", failed=found.count)
