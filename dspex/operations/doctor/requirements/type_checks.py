"""The type system: every type validates, and is written and read back unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dspex.errors import DspexError, ValidationError
from dspex.operations.doctor.check import Finding, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.requirements.signature_checks import REINSTALL
from dspex.signatures import signature
from dspex.signatures.types.constraints import ORDER

#: How each type is written that needs more than its name.
WRITTEN = {
    "enum": ':enum("a", "b")',
    "list": ":list(:integer)",
    "dict": ":dict(:string, :float)",
    "union": ":union(:integer, :string)",
    "optional": ":optional(:string)",
    "tagged": ':tagged("kind", :string)',
}
TYPES = (
    *("string", "integer", "float", "boolean", "atom", "any", "map", "binary", "datetime", "enum"),
    *("embedding", "probability", "confidence_score", "reasoning_chain", "token_count", "model_output"),
    *("prompt_template", "function_call", "tool_result", "image", "audio", "history"),
    *("list", "dict", "union", "optional", "tagged"),
)
#: Each constraint on a type that has it.
CONSTRAINED = {
    "min": ":integer(min=1)", "max": ":integer(max=9)", "multiple_of": ":integer(multiple_of=2)",
    "precision": ":float(precision=2)", "min_length": ":string(min_length=1)", "max_length": ":string(max_length=9)",
    "pattern": ':string(pattern="^a$")', "format": ':string(format="email")', "one_of": ':string(one_of=["a", "b"])',
    "unique": ":list(:string, unique=true)", "min_size": ":list(:string, min_size=1)",
    "max_size": ":list(:string, max_size=3)", "required_keys": ':map(required_keys=["a"])',
    "dimensions": ":embedding(dimensions=3)", "max_steps": ":reasoning_chain(max_steps=3)",
}  # fmt: skip


@check("Every type validates and keeps its values", mend=REINSTALL)
def every_type(_deployment: Deployment) -> Finding:
    """A valid value of each type passes, becomes JSON, and is the same when it is read back."""
    wrong = []
    for name in TYPES:
        compiled = signature(f"{WRITTEN.get(name, f':{name}')} value -> {WRITTEN.get(name, f':{name}')} other")
        values = compiled.validate_inputs(compiled.example(seed=7).inputs)
        if compiled.decode("inputs", compiled.encode("inputs", values)) != values:
            wrong.append(name)
    return not_met(f"changed on the way: {', '.join(wrong)}") if wrong else met(f"{len(TYPES)} types")


@check("Types compose to any depth", mend=REINSTALL)
def nesting(_deployment: Deployment) -> Finding:
    """Lists of dictionaries of unions of lists validate down to the innermost value, and a fault there is located."""
    compiled = signature(":dict(:string, :list(:union(:integer, :list(:optional(:float))))) deep -> :string answer")
    compiled.validate_inputs({"deep": {"a": [1, [2.5, None]]}})
    try:
        compiled.validate_inputs({"deep": {"a": [1, ["x"]]}})
    except ValidationError as refused:
        return met(f"a fault is told as {refused.errors[0].path}")
    return not_met("a fault four levels deep was accepted")


@check("Inputs are strict, outputs are repaired without a guess", mend=REINSTALL)
def strictness(_deployment: Deployment) -> Finding:
    """Text is no integer in inputs; in a model's outputs a number in quotes is read, and a bad one refused."""
    compiled = signature(":integer n -> :integer n_out, :probability p")
    accepted = [
        what
        for what, attempt in {
            'inputs took "5" for an integer': lambda: compiled.validate_inputs({"n": "5"}),
            'outputs took "five" for an integer': lambda: compiled.validate_outputs({"n_out": "five", "p": 0.5}),
            "outputs took 1.5 for a probability": lambda: compiled.validate_outputs({"n_out": 5, "p": 1.5}),
        }.items()
        if _accepted(attempt)
    ]
    repaired = compiled.validate_outputs({"n_out": "5", "p": "0.5"})
    if accepted or repaired != {"n_out": 5, "p": 0.5}:
        return not_met("; ".join(accepted) or "a number in quotes was not read")
    return met("3 wrong values refused, 2 repaired")


@check("Every constraint is known", mend=REINSTALL)
def constraints(_deployment: Deployment) -> Finding:
    """Each constraint compiles on a type that has it, and one that does not exist is refused, never ignored."""
    for text in CONSTRAINED.values():
        signature(f"{text} value -> :string answer")
    if missing := sorted(set(ORDER) - set(CONSTRAINED)):
        return not_met(f"not tried: {', '.join(missing)}")
    if _accepted(lambda: signature(":string(max_lenght=3) value -> :string answer")):
        return not_met("a constraint that does not exist was accepted")
    return met(f"{len(ORDER)} constraints, an unknown one refused")


def _accepted(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except DspexError:
        return False
    return True
