"""What an existing ``dspy.Module`` says about itself: inputs, outputs, predictors and model.

Modules are recognised by their shape: DSPy is imported by the user's own code, not here.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Optional, get_type_hints

import click

from dspex.program.calls.parameters import signature_of
from dspex.program.modules import is_reference
from dspex.signatures import InputField, OutputField, Signature, SignatureModel, signature

__all__ = ["Derived", "derive"]

#: Outputs that DSPy's modules add in front of the user's own.
_ADDED = frozenset({"reasoning", "rationale"})


@dataclass(frozen=True, slots=True)
class Derived:
    """``sources``: where each field comes from. ``model`` is the one that DSPy is configured with, if it is."""

    name: str
    signature: Signature
    sources: Mapping[str, str]
    predictors: Sequence[str]
    model: str | None


def derive(reference: str) -> Derived:
    """Import and make the module that ``package.module:name`` names, and read it. Raises click.UsageError."""
    made = _made(reference)
    predictors = dict(made.named_predictors())
    if not predictors:
        raise click.UsageError(f"{reference} has no predictors: declare the program in a file, with its signature")
    inputs, outputs = _inputs(made, predictors), _outputs(predictors)
    if both := sorted(inputs.keys() & outputs.keys()):
        raise click.UsageError(
            f"{', '.join(both)} is an input and an output of {reference}: declare the program in a file"
        )
    fields = {**inputs, **outputs}
    name = reference.partition(":")[2]
    words = inspect.getdoc(type(made)) if type(made).__doc__ else None
    namespace: dict[str, Any] = {
        "__doc__": words,
        "__module__": type(made).__module__,
        "__annotations__": {field: annotation for field, (annotation, _, _) in fields.items()},
        **{field: marker for field, (_, marker, _) in fields.items()},
    }
    return Derived(
        name,
        signature(type(name, (SignatureModel,), namespace)),
        {field: source for field, (_, _, source) in fields.items()},
        list(predictors),
        _configured_model(),
    )


#: An annotation, the marker of the field, and where it comes from.
_Field = tuple[Any, Any, str]


def _made(reference: str) -> Any:
    if not is_reference(reference):
        raise click.UsageError(f"{reference!r} is not of the form package.module:Class")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    home, _, name = reference.partition(":")
    try:
        made = getattr(import_module(home), name)()
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"{reference} cannot be imported: {error}") from error
    except TypeError as error:
        raise click.UsageError(
            f"{reference} cannot be made without arguments ({error}): declare it in a file, with module_options"
        ) from error
    if not callable(getattr(made, "named_predictors", None)):
        raise click.UsageError(f"{reference} made a {type(made).__name__}, which is no dspy.Module")
    return made


def _inputs(made: Any, predictors: Mapping[str, Any]) -> dict[str, _Field]:
    """The parameters of ``forward``; the inputs of the first predictor if it takes anything."""
    function = _entry(made)
    hints = _hints(function)
    named = [
        parameter
        for parameter in signature_of(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if not named:
        first, predictor = next(iter(predictors.items()))
        return {name: _input(field.annotation, field, f"input of {first}")
                for name, field in predictor.signature.input_fields.items()}  # fmt: skip
    return dict(_parameter(parameter, hints, predictors, function.__name__) for parameter in named)


def _parameter(
    parameter: inspect.Parameter, hints: Mapping[str, Any], predictors: Mapping[str, Any], function: str
) -> tuple[str, _Field]:
    name = parameter.name
    known = next(((which, field) for which, field in _fields(predictors, "input_fields", name)), None)
    annotation, source = hints.get(name), f"parameter of {function}"
    if annotation is None and known is not None:
        annotation, source = known[1].annotation, f"{source}; its type is from {known[0]}"
    elif annotation is None:
        annotation, source = str, f"{source}; its type is not known: text"
    if parameter.default is not parameter.empty:
        annotation = Optional[annotation]  # noqa: UP045 - made at run time
    return name, _input(annotation, known[1] if known else None, source)


def _outputs(predictors: Mapping[str, Any]) -> dict[str, _Field]:
    """The outputs of the last predictor."""
    last, predictor = list(predictors.items())[-1]
    fields = predictor.signature.output_fields
    own = {name: field for name, field in fields.items() if name not in _ADDED} or fields
    source = f"output of {last}"
    return {name: (field.annotation, OutputField(desc=_words(field)), source) for name, field in own.items()}


def _input(annotation: Any, field: Any, source: str) -> _Field:
    return annotation, InputField(desc="" if field is None else _words(field)), source


def _fields(predictors: Mapping[str, Any], side: str, name: str) -> Iterator[tuple[str, Any]]:
    for which, predictor in predictors.items():
        fields = getattr(predictor.signature, side)
        if name in fields:
            yield which, fields[name]


def _words(field: Any) -> str:
    """The description of a DSPy field, without DSPy's placeholder."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}
    words = str(extra.get("desc") or "")
    return "" if words.startswith("${") else words


def _entry(made: Any) -> Callable[..., Any]:
    """``forward``, or ``aforward``, past what DSPy does to warn those who call them."""
    name = "forward" if hasattr(type(made), "forward") else "aforward"
    found: Callable[..., Any] = object.__getattribute__(made, name)
    return found


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # the boundary to the user's code: a name that exists for type checkers only
        return {}


def _configured_model() -> str | None:
    dspy = sys.modules.get("dspy")
    model = getattr(getattr(getattr(dspy, "settings", None), "lm", None), "model", None)
    return model if isinstance(model, str) else None
