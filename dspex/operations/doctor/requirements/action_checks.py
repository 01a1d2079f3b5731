"""Manual actions: declared with a program, run by its worker, and recorded."""

from __future__ import annotations

from dspex.operations.doctor.check import Finding, Need, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ACTING, RESULT_SECONDS, submit


@check(
    "Built-in actions run",
    Need.WORKER,
    fix="see `dspex list --program dspex-doctor-acting`",
    seconds=RESULT_SECONDS + 5,
)
def carried_out(deployment: Deployment) -> Finding:
    """complex_validation and resource_management run around an execution, and report their results."""
    execution = submit(deployment, ACTING, "acted?")
    execution.result(RESULT_SECONDS)
    results = execution.action_results
    if failed := [action.name for action in ACTING.manual_actions if not results.get(action.name, {}).get("ok")]:
        return not_met(f"execution {execution.id}: {', '.join(failed)} did not succeed")
    if "manual_action" not in execution.audit_trail.kinds:
        return not_met(f"execution {execution.id}: the audit trail has no manual_action event")
    took = ", ".join(f"{name} {result['duration_ms']:.1f} ms" for name, result in results.items())
    return met(f"{took}; both in the audit trail")
