"""What a module returned, as the program's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import BaseModel

from dspex.errors import ProgramError
from dspex.program.program import Program
from workers.adapters.dspy.answer_repair import declared_outputs
from workers.adapters.dspy.dspy_signature import dspy_names
from workers.adapters.dspy.stored_values import stored

__all__ = ["outputs_of"]


def outputs_of(program: Program, returned: Any, *, is_own: bool) -> dict[str, Any]:
    """The declared outputs in their stored form. A module may return a prediction, a mapping, an object whose
    attributes are the outputs, or the value of the only output.

    Raises ProgramError ``not_a_prediction``.
    """
    if isinstance(returned, dspy.Prediction | Mapping):
        values = dict(returned.items())
        if not is_own or not _is_only_value(program, values):
            return {name: stored(value) for name, value in declared_outputs(program.signature, _named(program, values)).items()}
    elif returned is None or not is_own:
        raise _not_outputs(program, returned)
    names = [field.name for field in program.signature.output_fields]
    if _is_record(returned) and all(hasattr(returned, name) for name in names):
        return {name: stored(getattr(returned, name)) for name in names}
    if len(names) == 1:
        return {names[0]: stored(returned)}
    raise _not_outputs(program, returned)


def _named(program: Program, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under DSPy's names, also where the module used the program's."""
    return {**{ours: values[name] for name, ours in dspy_names(program.signature).items() if name in values}, **values}


def _is_only_value(program: Program, values: Mapping[str, Any]) -> bool:
    """Whether a mapping is the value of the only output, rather than outputs by name."""
    fields = program.signature.output_fields
    return len(fields) == 1 and fields[0].required and not {fields[0].name, dspy_names(program.signature)[fields[0].name]} & set(values)


def _is_record(value: Any) -> bool:
    return isinstance(value, BaseModel) or dataclasses.is_dataclass(value)


def _not_outputs(program: Program, returned: Any) -> ProgramError:
    return ProgramError(
        f"program {program.name!r}: its module gave a {type(returned).__name__}, not a dspy.Prediction",
        code="not_a_prediction",
    )
