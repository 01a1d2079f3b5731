"""The adapter pattern: adapters are found, loadable, able to do what they say, and refused what they cannot."""

from __future__ import annotations

from dspex.errors import ValidationError
from dspex.operations.doctor.check import Finding, Need, check, met, not_met, skipped, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.requirements.signature_checks import REINSTALL
from dspex.program.adapters import adapters, unloadable
from dspex.program.program import Program
from dspex.signatures import signature

ASKED = signature("question -> answer")
BUILT_IN = {"dspy", "direct", "scripted"}


@check("The registry finds its adapters", mend="install the package again, or remove it: `dspex adapters` says more")
def registry(_deployment: Deployment) -> Finding:
    """The built-in adapters are there, and every entry point of the group dspex.adapters can be imported."""
    known = adapters()
    if lacking := BUILT_IN - set(known):
        return not_met(f"not there: {', '.join(sorted(lacking))}")
    if broken := unloadable():
        return not_met("; ".join(f"{name}: {why}" for name, why in broken.items()))
    return met(", ".join(known))


@check("Adapters can be loaded", mend="where workers run: pip install 'dspex[worker]'")
def loadable(_deployment: Deployment) -> Finding:
    """What the adapters import is installed here. A machine that only submits does not need it."""
    missing = {name: info.missing for name, info in adapters().items() if info.missing}
    if missing:
        return warning("; ".join(f"{name} needs {', '.join(names)}" for name, names in missing.items()))
    return met(f"{len(adapters())} of {len(adapters())}")


@check("Programs are held to what their adapter can do", mend=REINSTALL)
def capabilities(_deployment: Deployment) -> Finding:
    """A module, an option, tools or a missing model that an adapter cannot do with are refused at once."""
    wrong: dict[str, dict[str, object]] = {
        "an unknown module": {"adapter": "dspy", "model": "openai/m", "module": "telepathy"},
        "an unknown option": {"adapter": "scripted", "module_options": {"telepathy": True}},
        "tools": {"adapter": "scripted", "tools": ["package.module:function"]},
        "no model": {"adapter": "direct"},
        "an unknown adapter": {"adapter": "telepathy"},
    }
    if accepted := [what for what, fields in wrong.items() if _accepted(fields)]:
        return not_met(f"accepted: {', '.join(accepted)}")
    return met(f"{len(wrong)} kinds refused")


@check("Deployed programs have their adapters", Need.SCHEMA, mend="install what brings the adapter where workers run")
def deployed(deployment: Deployment) -> Finding:
    """Every adapter that a deployed program names is known here."""
    named = {name for program in deployment.programs for name in program.adapters}
    if not deployment.programs:
        return skipped("no program is deployed")
    unknown = sorted(named - set(adapters()))
    return not_met(f"not known here: {', '.join(unknown)}") if unknown else met(", ".join(sorted(named)))


def _accepted(fields: dict[str, object]) -> bool:
    try:
        Program("refused", ASKED, **fields)  # type: ignore[arg-type]
    except ValidationError:
        return False
    return True
