"""Integration: every kind of execution on this deployment, from submit to a verified audit trail."""

from __future__ import annotations

import time

from dspex.client.execution import Execution
from dspex.errors import ExecutionCancelled
from dspex.operations.doctor.check import Finding, Need, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ANSWERING, RESULT_SECONDS, SLOW, submit
from dspex.store import guards
from dspex.store.lifecycle.status import Status

LOOK = "see `dspex list --program dspex-doctor` and the workers' logs"
TRAIL = (
    "signature_compilation", "input_validation", "submitted", "claimed", "adapter_execution", "lm_call",
    "output_validation", "result_serialization", "completed",
)  # fmt: skip
#: The longest that the specification allows an execution, in milliseconds.
MOST_MS = 30_000
#: Rows of the batch.
ROWS = 20


@check("An execution, end to end", Need.WORKER, fix=LOOK, seconds=RESULT_SECONDS + 5)
def end_to_end(deployment: Deployment) -> Finding:
    """A signature, a program, an execution and its result: in time, at no cost, with a complete audit trail."""
    began = time.perf_counter()
    execution = submit(deployment, ANSWERING, "is everything there?")
    execution.result(RESULT_SECONDS)
    took = (time.perf_counter() - began) * 1000
    trail = execution.audit_trail
    if missing := set(TRAIL) - set(trail.kinds):
        return not_met(f"execution {execution.id} has no audit event {', '.join(sorted(missing))}")
    if not (verified := trail.verify()):
        return not_met(f"execution {execution.id}: {verified.faults[0]}")
    if execution.metrics.cost_usd or took >= MOST_MS:
        return not_met(f"execution {execution.id} cost {execution.metrics.cost_usd} USD and took {took:.0f} ms")
    return met(f"{took:.0f} ms, {len(trail)} audit events verified, no cost", took_ms=took)


@check("A batch", Need.WORKER, fix=LOOK, seconds=RESULT_SECONDS + 5)
def batch(deployment: Deployment) -> Finding:
    """Rows submitted together all complete, in any order, and none twice."""
    client = deployment.client
    deployment.deploy(ANSWERING)
    rows = ({"question": f"row {number}?"} for number in range(ROWS))
    made = client.submit_many(ANSWERING, rows, priority=0, metadata={"by": "dspex doctor"})
    done = [execution.id for execution in made.as_completed(timeout=RESULT_SECONDS)]
    completed = made.progress.completed
    if len(set(done)) != ROWS or completed != ROWS:
        return not_met(f"{completed} of {ROWS} completed")
    return met(f"{ROWS} of {ROWS} completed")


@check("A stream", Need.WORKER, fix="see `dspex show ID`; streams go through Redis", seconds=RESULT_SECONDS + 5)
def stream(deployment: Deployment) -> Finding:
    """A streamed execution publishes its changes of status and its fields, to the end."""
    execution = submit(deployment, ANSWERING, "does it stream?", stream=True)
    kinds = [event.kind for event in execution.stream(timeout=RESULT_SECONDS)]
    result = execution.result(0)
    return met(f"{len(kinds)} events, {len(result)} field") if "field" in kinds else not_met(f"only {kinds}")


@check("A cancel", Need.WORKER, fix=LOOK, seconds=RESULT_SECONDS + 5)
def cancel(deployment: Deployment) -> Finding:
    """A running execution that is cancelled ends at once, and waiting for it raises ExecutionCancelled."""
    execution = submit(deployment, SLOW, "will it stop?", stream=True)
    _wait_until_running(execution)
    began = time.perf_counter()
    execution.cancel()
    try:
        execution.result(RESULT_SECONDS)
    except ExecutionCancelled:
        took = (time.perf_counter() - began) * 1000
        return met(f"ended {took:.0f} ms after the cancel", took_ms=took)
    return not_met(f"execution {execution.id} completed although it was cancelled")


@check(
    "The audit trail cannot be edited",
    Need.WORKER,
    fix="run `dspex migrate`: the triggers of audit_events are gone, or this role may disable them",
    seconds=RESULT_SECONDS + 5,
)
def append_only(deployment: Deployment) -> Finding:
    """An UPDATE and a DELETE of an audit entry are tried in transactions that are rolled back; both are refused."""
    execution = submit(deployment, ANSWERING, "can it be edited?")
    execution.result(RESULT_SECONDS)
    if accepted := guards.changes_accepted(deployment.database, execution.id):
        return not_met(f"accepted: {' and '.join(accepted)}")
    return met("refused: UPDATE and DELETE")


def _wait_until_running(execution: Execution) -> None:
    for event in execution.stream(timeout=RESULT_SECONDS):
        if event.status is Status.RUNNING:
            return
