"""The health checks of this process: the signature language and the adapters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dspex.errors import ValidationError
from dspex.operations.health.check_groups import CheckResult, CheckRound, ComponentGroup
from dspex.operations.health.conditions import Condition
from dspex.program.adapters import adapters, unloadable
from dspex.signatures.compile import compile_signature, compile_uncached

__all__ = ["language_group"]

REINSTALL = "reinstall dspex: this installation is broken"

#: A type of each group, and a constraint of each kind.
_PROBE = """
signature health_probe "Every group of types":
    :string(max_length=20) word, :integer(min=1, max=10) number, :enum("a", "b") choice, :boolean flag,
    :probability chance, :reasoning_chain thoughts, :embedding(dimensions=2) vector,
    :list(:optional(:float)) figures, :dict(:string, :union(:integer, :string)) table, :tagged("ok", :string) outcome
    -> :confidence_score confidence, :list(:string) tags
"""
_INPUTS: Mapping[str, Any] = {
    "word": "a word", "number": 3, "choice": "b", "flag": True, "chance": 0.5,
    "thoughts": [{"step": "1", "reasoning": "so"}], "vector": [0.1, 0.2], "figures": [1.0, None],
    "table": {"x": 1, "y": "z"},
}  # fmt: skip
_OUTPUTS: Mapping[str, Any] = {"confidence": 0.9, "tags": ["a"]}


def _signature_system(performance: dict[str, float]) -> CheckResult:
    began = time.perf_counter()
    probe = compile_uncached(_PROBE)
    performance["signature_compilation_ms"] = round((time.perf_counter() - began) * 1000, 3)
    again = compile_uncached(probe.definition)
    if again.fingerprint != probe.fingerprint:
        return CheckResult(
            Condition.UNHEALTHY, {"error": "recompiling a definition gives a different signature"}, REINSTALL
        )
    return CheckResult(Condition.HEALTHY, {"compilation_ms": performance["signature_compilation_ms"]})


def _type_system(performance: dict[str, float]) -> CheckResult:
    probe = compile_signature(_PROBE)
    example = probe.example(1)
    inputs = {**example.inputs, **_INPUTS}
    began = time.perf_counter()
    valid = probe.validate_inputs(inputs)
    probe.validate_outputs(_OUTPUTS)
    performance["type_validation_ms"] = round((time.perf_counter() - began) * 1000, 3)
    details = {"validation_ms": performance["type_validation_ms"], "types": len(probe.input_fields)}
    if probe.decode("inputs", probe.encode("inputs", valid)) != valid:
        return CheckResult(
            Condition.UNHEALTHY, details | {"error": "decoding encoded values gives different values"}, REINSTALL
        )
    try:
        probe.validate_inputs({**inputs, "number": 11})
    except ValidationError:
        return CheckResult(Condition.HEALTHY, details)
    return CheckResult(Condition.UNHEALTHY, details | {"error": "a value above its maximum is accepted"}, REINSTALL)


def _adapter_registry() -> CheckResult:
    here = {name: "available" if not info.missing else f"not available: {', '.join(info.missing)} is missing"
            for name, info in adapters().items()}  # fmt: skip
    if broken := unloadable():
        fix = "fix or remove the packages that provide them"
        return CheckResult(Condition.DEGRADED, {"adapters": here, "unloadable": dict(broken)}, fix)
    return CheckResult(Condition.HEALTHY, {"adapters": here})


def language_group() -> ComponentGroup:
    """The group of components that are checked in this process."""

    def run(round: CheckRound) -> None:
        performance = round.facts["own_performance"] = {}
        round.check("signature_system", lambda: _signature_system(performance))
        round.check("type_system", lambda: _type_system(performance))
        round.check("adapter_registry", _adapter_registry)

    names = ("signature_system", "type_system", "adapter_registry")
    return ComponentGroup(names, run, "this process is overloaded: check its CPU usage")
