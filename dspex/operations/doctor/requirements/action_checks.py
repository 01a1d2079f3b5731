"""Manual actions: declared with a program, carried out by its worker, and recorded."""

from __future__ import annotations

from dspex.errors import ValidationError
from dspex.operations.doctor.check import Finding, Need, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.probe_programs import ACTING, PATIENCE_SECONDS, submit
from dspex.operations.doctor.requirements.signature_checks import REINSTALL
from dspex.program.actions import Action
from dspex.program.program import Program


@check(
    "Built-in actions are carried out",
    Need.WORKER,
    mend="see `dspex list --program dspex-doctor-acting`",
    seconds=PATIENCE_SECONDS + 5,
)
def carried_out(deployment: Deployment) -> Finding:
    """complex_validation and resource_management run around an execution, and tell what they found."""
    execution = submit(deployment, ACTING, "acted?")
    execution.result(PATIENCE_SECONDS)
    told = execution.action_results
    if lacking := [action.name for action in ACTING.manual_actions if not told.get(action.name, {}).get("ok")]:
        return not_met(f"execution {execution.id}: {', '.join(lacking)} did not tell that all is well")
    if "manual_action" not in execution.audit_trail.kinds:
        return not_met(f"execution {execution.id}: the audit trail does not tell of them")
    took = ", ".join(f"{name} {result['duration_ms']:.1f} ms" for name, result in told.items())
    return met(f"{took}; both in the audit trail")


@check("Wrong actions are refused", mend=REINSTALL)
def refusal(_deployment: Deployment) -> Finding:
    """An action that does not exist, a rule that cannot be read and an unknown limit are refused before deployment."""
    wrong = (
        Action("telepathy"),
        Action("complex_validation", options={"rules": ["answer.length >>> 3"]}),
        Action("complex_validation", options={"rules": ["no_such_field == 1"]}),
        Action("resource_management", options={"max_telepathy": 1}),
    )
    accepted = [action.name for action in wrong if _accepted(action)]
    return not_met(f"accepted: {', '.join(accepted)}") if accepted else met(f"{len(wrong)} kinds refused")


def _accepted(action: Action) -> bool:
    try:
        Program("refused", ACTING.signature, adapter="scripted", actions=[action])
    except ValidationError:
        return False
    return True
