"""Signatures written as classes: :class:`SignatureModel`, and ``dspy.Signature`` without importing dspy."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspex.signatures.fields import NO_DEFAULT, Field, Type
from dspex.signatures.parse.annotations import Scope, from_annotation, without_secret
from dspex.signatures.parse.class_members import json_of
from dspex.signatures.parse.class_scope import annotations_of, keep_local_types
from dspex.signatures.parse.lexer import type_error
from dspex.signatures.parse.native_language import parse_type
from dspex.signatures.parse.source import Source
from dspex.signatures.types.python_constraints import from_python
from dspex.signatures.types.type_registry import TypeFaultError, constrain

__all__ = ["InputField", "OutputField", "SignatureModel", "read"]


@dataclass(frozen=True, slots=True)
class _Marker:
    side: str
    desc: str
    type: str | None
    default: Any
    secret: bool
    constraints: Mapping[str, Any] = field(default_factory=dict)


def InputField(  # noqa: N802 - named as in DSPy
    default: Any = NO_DEFAULT, *, desc: str = "", type: str | None = None, secret: bool = False, **constraints: Any
) -> Any:
    """Declare an input of a :class:`SignatureModel`.

    ``desc`` is its description, ``type`` a type of the language (``":embedding"``) if the annotation is not
    specific enough. ``secret`` keeps the value out of errors. Other arguments are constraints (``max_length=280``) and
    notes for the model (``examples=["Paris"]``).
    """
    return _Marker("inputs", desc, type, default, secret, constraints)


def OutputField(  # noqa: N802 - named as in DSPy
    default: Any = NO_DEFAULT, *, desc: str = "", type: str | None = None, secret: bool = False, **constraints: Any
) -> Any:
    """Declare an output of a :class:`SignatureModel`; takes the same arguments as :func:`InputField`."""
    return _Marker("outputs", desc, type, default, secret, constraints)


class SignatureModel:
    """Base of signatures written as classes.

    ::

        class QA(dspex.SignatureModel):
            "Answer the question."
            question: str = dspex.InputField(desc="what to answer")
            answer: str = dspex.OutputField(max_length=280)
    """

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        keep_local_types(cls)


def read(source: Any) -> Source:
    """Read a SignatureModel class or a ``dspy.Signature`` class.

    Raises SignatureTypeError for anything else.
    """
    if isinstance(source, type) and issubclass(source, SignatureModel):
        return _read_model(source)
    if isinstance(source, type) and hasattr(source, "model_fields") and hasattr(source, "instructions"):
        return _read_dspy(source)
    fault = TypeFaultError(
        f"{type(source).__name__} {source!r:.80} is not a signature",
        code="invalid_type",
        expected="text, a SignatureModel class, a dspy.Signature class or a Signature",
    )
    raise type_error(fault, "signature")


def _read_model(source: type[SignatureModel]) -> Source:
    markers = {
        name: value
        for cls in reversed(source.__mro__)
        for name, value in vars(cls).items()
        if isinstance(value, _Marker)
    }
    scope = Scope().within(source)
    try:
        hints = annotations_of(source, scope.local)
    except TypeFaultError as fault:
        raise type_error(fault, source.__name__) from None
    _reject_undeclared(source, markers, hints)
    fields = {name: _model_field(source, name, hints[name], marker, scope) for name, marker in markers.items()}
    sides = [
        tuple(fields[name] for name, marker in markers.items() if marker.side == side) for side in ("inputs", "outputs")
    ]
    about = inspect.cleandoc(source.__doc__) if source.__doc__ and source is not SignatureModel else ""
    return _checked(Source(source.__name__, about, sides[0], sides[1]))


def _reject_undeclared(source: type, markers: Mapping[str, _Marker], hints: Mapping[str, Any]) -> None:
    stray = [*(name for name in hints if name not in markers), *(name for name in markers if name not in hints)]
    if stray:
        fault = TypeFaultError(
            f"{', '.join(stray)} of {source.__name__} is not a field",
            code="invalid_type",
            expected="an annotation and InputField() or OutputField()",
        )
        raise type_error(fault, f"field {stray[0]!r}")


def _model_field(source: type, name: str, hint: Any, marker: _Marker, scope: Scope) -> Field:
    hint, is_secret = without_secret(hint)
    try:
        kind = parse_type(marker.type) if marker.type is not None else from_annotation(hint, (), scope)
        given = dict(marker.constraints)
        limits = {key: given.pop(key) for key in tuple(given) if key in ("ge", "gt", "le", "lt")}
        kind = constrain(from_python(kind, limits), given)
    except TypeFaultError as fault:
        raise type_error(fault, f"field {name!r} of {source.__name__}") from None
    return make_field(name, kind, marker.desc, marker.default, marker.secret or is_secret)


def make_field(name: str, kind: Type, description: str, default: Any, secret: bool = False) -> Field:
    """A field of this type, where ``:optional`` around the type makes the field optional."""
    default = _plain_default(default)
    if kind.name != "optional":
        return Field(name, kind, description, False, default, secret)
    return Field(name, kind.args[0], description, True, None if default is NO_DEFAULT else default, secret)


def _plain_default(default: Any) -> Any:
    """The default in its JSON form: a member of an enum as its value, a model as a map. Whether it fits shows later."""
    if default is NO_DEFAULT:
        return default
    try:
        return json_of(default)
    except ValueError:
        return default


def _read_dspy(source: Any) -> Source:
    sides: dict[str, list[Field]] = {"input": [], "output": []}
    for name, info in source.model_fields.items():
        extra = info.json_schema_extra or {}
        side = sides.get(str(extra.get("__dspy_field_type")))
        if side is None:
            continue
        annotation, is_secret = without_secret(info.annotation)
        try:
            kind = from_annotation(annotation, (info,), Scope().within(source))
        except TypeFaultError as fault:
            raise type_error(fault, f"field {name!r} of {source.__name__}") from None
        about = str(extra.get("desc") or info.description or "")
        default = NO_DEFAULT if info.is_required() else info.get_default(call_default_factory=True)
        side.append(make_field(name, kind, "" if about == f"${{{name}}}" else about, default, is_secret))
    return _checked(
        Source(source.__name__, _instructions(source, sides), tuple(sides["input"]), tuple(sides["output"]))
    )


def _instructions(source: Any, sides: Mapping[str, list[Field]]) -> str:
    """The instructions, or "" if they are those that DSPy generates by default."""
    inputs, outputs = (", ".join(f"`{f.name}`" for f in sides[side]) for side in ("input", "output"))
    text = inspect.cleandoc(source.instructions or "")
    made_up = re.escape(f"Given the fields {inputs}, produce the fields {outputs}.")
    return "" if re.fullmatch(made_up, text.strip()) else text


def _checked(read: Source) -> Source:
    names = [field.name for field in (*read.inputs, *read.outputs)]
    bad = [name for name in names if name.startswith("_")]
    if bad or not read.outputs:
        fault = TypeFaultError(
            f"{bad[0]} is not a valid field name" if bad else f"{read.name} has no outputs",
            code="invalid_type",
            expected="names that do not begin with an underscore" if bad else "at least one OutputField()",
        )
        raise type_error(fault, read.name or "signature")
    return read
