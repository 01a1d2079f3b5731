"""What a module returned, as the program's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import dspy
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from dspex.errors import ProgramError, ValidationError
from dspex.program.program import Program
from dspex.signatures import Type
from workers.adapters.dspy.answer_repair import declared_outputs
from workers.adapters.dspy.dspy_signature import dspy_names, is_code
from workers.adapters.dspy.linear_readers import code_in_fence
from workers.adapters.dspy.values.stored_values import stored
from workers.adapters.signature_limits import unkept_limits

__all__ = ["PREDICTOR_NAME", "extra_of", "outputs_of", "refuse_unfit", "traced_calls"]

#: The attribute of a predictor with its name in the module; copies of the module have it, too.
PREDICTOR_NAME = "_dspex_predictor"


def outputs_of(program: Program, returned: Any, *, is_own: bool) -> dict[str, Any]:
    """The declared outputs in their stored form. A module may return a prediction, a mapping, an object whose
    attributes are the outputs, or the value of the only output.

    Raises ProgramError ``not_a_prediction``.
    """
    if isinstance(returned, dspy.Example | Mapping):
        values = dict(returned.items())
        if not is_own or not _is_only_value(program, values):
            declared = declared_outputs(program.signature, _named(program, values))
            kinds = {field.name: field.type for field in program.signature.output_fields}
            return {name: _stored(None if is_own else kinds[name], value) for name, value in declared.items()}
    elif returned is None or not is_own:
        raise _not_outputs(program, returned)
    names = [field.name for field in program.signature.output_fields]
    if _is_record(returned) and all(hasattr(returned, name) for name in names):
        return {name: stored(getattr(returned, name)) for name in names}
    if len(names) == 1:
        return {names[0]: stored(returned)}
    raise _not_outputs(program, returned)


def _stored(written: Type | None, value: Any) -> Any:
    """The stored form; of code as a model has ``written`` it, the code."""
    plain = stored(value)
    return code_in_fence(plain) if written is not None and is_code(written) and isinstance(plain, str) else plain


def extra_of(program: Program, returned: Any) -> dict[str, Any]:
    """What a prediction or a mapping has besides the declared outputs, in its stored form: ``reasoning``, the
    ``trajectory`` of an agent."""
    if not isinstance(returned, dspy.Example | Mapping):
        return {}
    outputs = {field.name for field in program.signature.output_fields}
    declared = {*outputs, *(ours for name, ours in dspy_names(program.signature).items() if name in outputs)}
    if declared.isdisjoint(returned.keys()):  # it is the value of the only output
        return {}
    return {name: stored(value) for name, value in returned.items() if name not in declared and isinstance(name, str)}


def traced_calls(trace: Sequence[tuple[Any, Any, Any]], returned: Any) -> dict[str, Any]:
    """The calls of a program's predictors, each by its name with its inputs and outputs, and all that the module
    returned, as JSON data. A call of a predictor that is not the module's own has no name, and is left out."""
    calls = [
        [name, _json_data(given), _json_data(dict(prediction.items()))]
        for predictor, given, prediction in trace
        if (name := getattr(predictor, PREDICTOR_NAME, None)) is not None
    ]
    prediction = dict(returned.items()) if isinstance(returned, dspy.Prediction) else {}
    return {"calls": calls, "prediction": _json_data(prediction)}


def _json_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON data, without those that have no such form: a value that contains itself, for example."""
    data = {}
    for name, value in values.items():
        with suppress(ValueError, RecursionError):
            data[name] = to_jsonable_python(stored(value), fallback=str)
    return data


def refuse_unfit(program: Program, outputs: Mapping[str, Any], trace: Sequence[tuple[Any, Any, Any]]) -> None:
    """Raises ProgramError ``output_unfit``, which is final, if the outputs do not fit the signature and what does not
    fit came from the module's own code: no other answer of a model would change it."""
    try:
        program.signature.check_outputs(outputs)
    except ValidationError as error:
        answered = [stored(value) for _, _, prediction in trace for value in dict(prediction.items()).values()]
        faulty = {name for fault in error.errors if (name := fault.path.partition("[")[0].partition(".")[0])}
        if any(outputs.get(name) in answered for name in faulty if outputs.get(name) is not None):
            return
        raise ProgramError(
            f"program {program.name!r}: what its module returned does not fit: {error}{unkept_limits(program, error)}",
            code="output_unfit",
            fields=sorted(faulty),
        ) from None


def _named(program: Program, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under DSPy's names, also where the module used the program's."""
    return {**{ours: values[name] for name, ours in dspy_names(program.signature).items() if name in values}, **values}


def _is_only_value(program: Program, values: Mapping[str, Any]) -> bool:
    """Whether a mapping is the value of the only output, rather than outputs by name."""
    fields = program.signature.output_fields
    if len(fields) != 1 or not fields[0].required:
        return False
    name = fields[0].name
    return not {name, dspy_names(program.signature)[name]} & set(values)


def _is_record(value: Any) -> bool:
    return isinstance(value, BaseModel) or dataclasses.is_dataclass(value)


def _not_outputs(program: Program, returned: Any) -> ProgramError:
    return ProgramError(
        f"program {program.name!r}: its module gave a {type(returned).__name__}, not a dspy.Prediction",
        code="not_a_prediction",
    )
