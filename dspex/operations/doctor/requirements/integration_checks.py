"""Integration: executions of every way, on this deployment, from submit to a verified audit trail."""

from __future__ import annotations

import time

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dspex.client.execution import Execution
from dspex.errors import ExecutionCancelled
from dspex.operations.doctor.check import Finding, Need, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING, PATIENCE_SECONDS, SLOW, submit
from dspex.store.lifecycle.status import Status

LOOK = "see `dspex list --program dspex-doctor` and the workers' logs"
TRAIL = (
    "signature_compilation", "input_validation", "submitted", "claimed", "adapter_execution", "lm_call",
    "output_validation", "result_serialization", "completed",
)  # fmt: skip
#: What the specification allows an execution, in milliseconds.
MOST_MS = 30_000
#: Rows of the batch.
ROWS = 20


@check("An execution, end to end", Need.WORKER, mend=LOOK, seconds=PATIENCE_SECONDS + 5)
def end_to_end(deployment: Deployment) -> Finding:
    """A signature, a program, an execution and its result: over in time, at no cost, its audit trail complete."""
    began = time.perf_counter()
    execution = submit(deployment, ANSWERING, "is everything there?")
    execution.result(PATIENCE_SECONDS)
    took = (time.perf_counter() - began) * 1000
    trail = execution.audit_trail
    if missing := set(TRAIL) - set(trail.kinds):
        return not_met(f"execution {execution.id} has no audit event {', '.join(sorted(missing))}")
    if not (verified := trail.verify()):
        return not_met(f"execution {execution.id}: {verified.faults[0]}")
    if execution.metrics.cost_usd or took >= MOST_MS:
        return not_met(f"execution {execution.id} cost {execution.metrics.cost_usd} USD and took {took:.0f} ms")
    return met(f"{took:.0f} ms, {len(trail)} audit events verified, no cost", took_ms=took)


@check("A batch", Need.WORKER, mend=LOOK, seconds=PATIENCE_SECONDS + 5)
def batch(deployment: Deployment) -> Finding:
    """Rows submitted together all complete, in whatever order, and none twice."""
    client = deployment.client
    client.deploy(ANSWERING)
    rows = ({"question": f"row {number}?"} for number in range(ROWS))
    made = client.submit_many(ANSWERING, rows, priority=0, metadata={"by": "dspex doctor"})
    done = [execution.id for execution in made.as_completed(timeout=PATIENCE_SECONDS)]
    completed = made.progress.completed
    if len(set(done)) != ROWS or completed != ROWS:
        return not_met(f"{completed} of {ROWS} completed")
    return met(f"{ROWS} of {ROWS} completed")


@check("A stream", Need.WORKER, mend="see `dspex show ID`; streams go through Redis", seconds=PATIENCE_SECONDS + 5)
def stream(deployment: Deployment) -> Finding:
    """An execution that asked to be streamed tells its changes of status and its fields, to the end."""
    execution = submit(deployment, ANSWERING, "does it stream?", stream=True)
    kinds = [event.kind for event in execution.stream(timeout=PATIENCE_SECONDS)]
    result = execution.result(0)
    return met(f"{len(kinds)} events, {len(result)} field") if "field" in kinds else not_met(f"only {kinds}")


@check("A cancel", Need.WORKER, mend=LOOK, seconds=PATIENCE_SECONDS + 5)
def cancel(deployment: Deployment) -> Finding:
    """A running execution that is cancelled ends at once, and whoever waits for it is told so."""
    execution = submit(deployment, SLOW, "will it stop?", stream=True)
    _wait_until_running(execution)
    began = time.perf_counter()
    execution.cancel()
    try:
        execution.result(PATIENCE_SECONDS)
    except ExecutionCancelled:
        took = (time.perf_counter() - began) * 1000
        return met(f"ended {took:.0f} ms after the cancel", took_ms=took)
    return not_met(f"execution {execution.id} completed although it was cancelled")


@check(
    "The audit trail cannot be edited",
    Need.WORKER,
    mend="run `dspex migrate`: the triggers of audit_events are gone, or this role may switch them off",
    seconds=PATIENCE_SECONDS + 5,
)
def append_only(deployment: Deployment) -> Finding:
    """An UPDATE and a DELETE of an audit entry are tried, in transactions that are rolled back; both are refused."""
    execution = submit(deployment, ANSWERING, "can it be edited?")
    execution.result(PATIENCE_SECONDS)
    accepted = []
    for statement in ("UPDATE dspex.audit_events SET attempt = 9", "DELETE FROM dspex.audit_events"):
        with deployment.database.engine.connect() as connection:  # closed without a commit: rolled back
            try:
                connection.execute(text(f"{statement} WHERE execution_id = :id"), {"id": execution.id})
            except DBAPIError as error:
                if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                    raise
                continue
            accepted.append(statement.partition(" ")[0])
    return not_met(f"{' and '.join(accepted)} was not refused") if accepted else met("UPDATE and DELETE refused")


def _wait_until_running(execution: Execution) -> None:
    for event in execution.stream(timeout=PATIENCE_SECONDS):
        if event.status is Status.RUNNING:
            return
