"""Values of inputs as the user's code receives them: of the classes that the code itself names.

They are the annotations of ``forward``, else the annotations of inputs with the
same name in the module's predictors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, get_type_hints

import dspy
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from dspex.program.calls.parameters import signature_of
from workers.adapters.dspy.dspy_signature import is_ours

__all__ = ["InputTypes"]

Read = Callable[[Any], Any]


class InputTypes:
    """How the inputs of a module are read: made once per version."""

    def __init__(self, module: dspy.Module, function: Callable[..., Any]) -> None:
        parameters = signature_of(function).parameters.values()
        self._takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._defaults = {parameter.name for parameter in parameters if parameter.default is not parameter.empty}
        self._named = {parameter.name for parameter in parameters}
        self._readers = _readers(module, function)

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments for the module. An input that was left out keeps the default that the function has."""
        return {name: self._read(name, value) for name, value in inputs.items() if not self._keeps_default(name, value)}

    def _keeps_default(self, name: str, value: Any) -> bool:
        return value is None and (name in self._defaults or (self._takes_any and name not in self._named))

    def _read(self, name: str, value: Any) -> Any:
        reader = self._readers.get(name)
        return value if reader is None or value is None else reader(value)


def _readers(module: dspy.Module, function: Callable[..., Any]) -> dict[str, Read]:
    annotations = _predictors_annotations(module) | _hints(function)
    return {name: reader for name, annotation in annotations.items() if (reader := _reader(annotation)) is not None}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, without those that say nothing."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # the boundary to the user's code: a name that exists for type checkers only
        return {}
    return {name: hint for name, hint in hints.items() if name != "return" and hint not in (Any, dict, list)}


def _predictors_annotations(module: dspy.Module) -> dict[str, Any]:
    """The annotations of inputs by name, where all predictors agree."""
    found: dict[str, Any] = {}
    for _, predictor in module.named_predictors():
        for name, field in predictor.signature.input_fields.items():
            if not is_ours(field) and found.setdefault(name, field.annotation) != field.annotation:
                found[name] = Any
    return found


@lru_cache(maxsize=1024)
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError):
        return None


def _reader(annotation: Any) -> Read | None:
    """Reads plain data as the annotation; None where it is that already."""
    if annotation in (Any, str, int, float, bool, dspy.Image, dspy.Audio, dspy.History):
        return None
    try:
        adapter = _adapter(annotation)
    except TypeError:  # not hashable
        return None
    if adapter is None:
        return None

    def read(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError:  # the code takes what the program's signature allows
            return value

    return read
