"""The signature system: the language compiles, validates, describes itself and explains mistakes."""

from __future__ import annotations

from dspex.errors import SignatureSyntaxError, SignatureTypeError, ValidationError
from dspex.operations.doctor.check import Finding, check, met, not_met
from dspex.operations.doctor.deployment import Deployment
from dspex.signatures import InputField, OutputField, SignatureModel, signature
from dspex.signatures.schemas.provider_fit import DIALECTS

REINSTALL = "install dspex again: what is installed here is not whole"
SOURCE = """
signature completion_test "Is everything there?":
    :string(max_length=100) input,
    :integer(min=0) count = 1
    ->
    :string output,
    :confidence_score confidence
"""


class _Asked(SignatureModel):
    question: str = InputField()
    answer: str = OutputField()


@check("Signatures compile", mend=REINSTALL)
def compilation(_deployment: Deployment) -> Finding:
    """A signature of the native language compiles, and its canonical text compiles to an equal one."""
    compiled = signature(SOURCE)
    again = signature(compiled.definition)
    shape = (len(compiled.input_fields), len(compiled.output_fields))
    if shape != (2, 2) or again != compiled:
        return not_met(f"fields {shape}, compiled again it is {'equal' if again == compiled else 'another'}")
    return met(f"2 inputs, 2 outputs, fingerprint {compiled.fingerprint[:12]}, equal when compiled again")


@check("Every source form means the same", mend=REINSTALL)
def sources(_deployment: Deployment) -> Finding:
    """The native language, a DSPy string and a class that say the same give one fingerprint."""
    forms = (":string question -> :string answer", "question: str -> answer: str", _Asked)
    prints = {signature(form, name="asked", description="").fingerprint for form in forms}
    return met("native, DSPy string and class: one fingerprint") if len(prints) == 1 else not_met("they differ")


@check("Values are validated", mend=REINSTALL)
def validation(_deployment: Deployment) -> Finding:
    """Values that fit pass, defaults are filled in, and every fault of values that do not fit is told at once."""
    compiled = signature(SOURCE)
    if compiled.validate_inputs({"input": "x"}) != {"input": "x", "count": 1}:
        return not_met("a default was not filled in")
    try:
        compiled.validate_inputs({"input": 7, "count": -1, "more": True})
    except ValidationError as refused:
        told = sorted(error.path for error in refused.errors)
        complete = told == ["count", "input", "more"]
        return met("3 faults of 3 told at once") if complete else not_met(f"told only of {', '.join(told)}")
    return not_met("values that do not fit were accepted")


@check("JSON Schemas for every provider", mend=REINSTALL)
def json_schemas(_deployment: Deployment) -> Finding:
    """Both sides of a signature become a JSON Schema for each provider, which names every field."""
    compiled = signature(SOURCE)
    for provider in DIALECTS:
        for side, names in (("inputs", {"input", "count"}), ("outputs", {"output", "confidence"})):
            schema = compiled.json_schema(side, provider=provider)  # type: ignore[arg-type]
            if set(schema["properties"]) != names:
                return not_met(f"the {side} for {provider} have {sorted(schema['properties'])}")
    return met(f"{', '.join(DIALECTS)}: inputs and outputs")


@check("Mistakes are explained", mend=REINSTALL)
def errors(_deployment: Deployment) -> Finding:
    """A mistake in a signature is refused with its line and column, what was expected, and the nearest known name."""
    try:
        signature("signature broken:\n  :string question ->\n  :strin answer")
    except SignatureTypeError as refused:
        unknown = (refused.line, refused.nearest)
    try:
        signature(":string question -> ")
    except SignatureSyntaxError as refused:
        unfinished = bool(refused.expected)
    if unknown[0] != 3 or "string" not in unknown[1] or not unfinished:
        return not_met(f"line {unknown[0]}, nearest {unknown[1]!r}")
    return met("line, column, what was expected, and the nearest name")
