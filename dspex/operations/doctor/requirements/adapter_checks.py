"""Adapters: they are found, can be loaded, and cover the deployed programs."""

from __future__ import annotations

from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.program.adapters import adapters, unloadable

BUILT_IN = {"dspy", "direct", "scripted"}


@check("The registry finds its adapters", fix="install the package again, or remove it: see `dspex adapters`")
def registry(_deployment: Deployment) -> Finding:
    """The built-in adapters exist, and every entry point of the group dspex.adapters can be imported."""
    known = adapters()
    if lacking := BUILT_IN - set(known):
        return not_met(f"missing: {', '.join(sorted(lacking))}")
    if broken := unloadable():
        return not_met("; ".join(f"{name}: {why}" for name, why in broken.items()))
    return met(", ".join(known))


@check("Adapters can be loaded", fix="where workers run: pip install 'dspex[worker]'")
def loadable(_deployment: Deployment) -> Finding:
    """The packages that the adapters import are installed here. A machine that only submits does not need them."""
    missing = {name: info.missing for name, info in adapters().items() if info.missing}
    if missing:
        return warning("; ".join(f"{name} needs {', '.join(names)}" for name, names in missing.items()))
    return met(f"{len(adapters())} of {len(adapters())}")


@check("Deployed programs have their adapters", Need.SCHEMA, fix="install the adapter's package where workers run")
def deployed(deployment: Deployment) -> Finding:
    """Every adapter that a deployed program names is known here."""
    named = {name for program in deployment.programs for name in program.adapters}
    if not deployment.programs:
        return not_applicable("no program is deployed")
    unknown = sorted(named - set(adapters()))
    return not_met(f"not known here: {', '.join(unknown)}") if unknown else met(", ".join(sorted(named)))
