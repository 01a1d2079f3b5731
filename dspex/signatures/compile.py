"""Compile a signature from any source form. Equal content is compiled once."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from pydantic_core import SchemaValidator
from pydantic_core import ValidationError as CoreError

from dspex.errors import SignatureSyntaxError
from dspex.signatures.compiled import Signature
from dspex.signatures.fields import NO_DEFAULT, Field, with_lifted_description
from dspex.signatures.identity import has_default
from dspex.signatures.parse import class_signatures, dspy_strings, native_language
from dspex.signatures.parse.source import Source
from dspex.signatures.types.type_registry import TypeFaultError, constrain, nearest
from dspex.signatures.values.validators import build_validator
from dspex.signatures.values.value_faults import explain

__all__ = ["DEFAULT_NAME", "compile_signature", "compile_uncached", "forget_compiled", "read_source"]

DEFAULT_NAME = "signature"
"""The name of a signature whose source has none."""

_CACHED = 4096
_cache: dict[tuple[Any, ...], Signature] = {}
_cache_lock = threading.Lock()


def compile_signature(
    source: str | type | Signature,
    *,
    name: str | None = None,
    description: str | None = None,
    constraints: Mapping[str, Mapping[str, Any]] | None = None,
) -> Signature:
    """Compile a signature: ``":string question -> :string answer"``, with types, validators and schemas.

    ``source`` is the native language, a DSPy string (``"question, k: int -> answer: str"``), a
    :class:`SignatureModel` class, a ``dspy.Signature`` class or a Signature. ``name`` and ``description`` replace
    the name and description of the source; ``constraints`` (``{"max_words": {"min": 1}}``) adds to its fields. Equal
    content is compiled once.

    Raises SignatureSyntaxError for text that cannot be parsed, and SignatureTypeError for a type, constraint or field
    that does not exist or fit. Both errors have the position.
    """
    key = (source, name, description, repr(constraints) if constraints else None)
    found = _cache.get(key)
    if found is None:
        found = compile_uncached(source, name=name, description=description, constraints=constraints)
        with _cache_lock:
            while len(_cache) >= _CACHED:
                del _cache[next(iter(_cache))]
            _cache[key] = found
    return found


def forget_compiled() -> None:
    """Empty the cache after a type was registered again."""
    with _cache_lock:
        _cache.clear()


def compile_uncached(
    source: str | type | Signature,
    *,
    name: str | None = None,
    description: str | None = None,
    constraints: Mapping[str, Mapping[str, Any]] | None = None,
) -> Signature:
    """Compile a signature without the cache."""
    if isinstance(source, Signature) and name is None and description is None and not constraints:
        return source
    read = read_source(source)
    about = read.description if description is None else description
    inputs, outputs = read.inputs, read.outputs
    if constraints:
        _refuse_unknown_fields(read, constraints)
        inputs, outputs = (_constrained(read, side, constraints) for side in (inputs, outputs))
    inputs, outputs = (_with_defaults(read, tuple(map(with_lifted_description, side))) for side in (inputs, outputs))
    return Signature(
        _name(read, name), _description(about), inputs, outputs, (_validator(read, inputs), _validator(read, outputs))
    )


def read_source(source: str | type | Signature) -> Source:
    """The name, description and fields of a signature in any form."""
    if isinstance(source, str):
        return native_language.parse(source) if native_language.is_native(source) else dspy_strings.parse(source)
    if isinstance(source, Signature):
        return Source(source.name, source.description, source.input_fields, source.output_fields)
    return class_signatures.read(source)


def _name(read: Source, given: str | None) -> str:
    if given is None:
        return read.name or DEFAULT_NAME
    name = unicodedata.normalize("NFKC", given)
    if not name.isidentifier():
        _refuse(
            f"{given!r} is not a valid signature name", "letters, digits and underscores, not beginning with a digit"
        )
    return name


def _description(given: str) -> str:
    if not given.isascii():
        try:
            given.encode()
        except UnicodeEncodeError:
            _refuse("the description holds a lone surrogate", "text that can be written as UTF-8")
    return given.strip()


def _refuse(problem: str, expected: str) -> NoReturn:
    raise SignatureSyntaxError(f"{problem}; expected {expected}", line=1, column=1, snippet="", expected=expected)


def _refuse_unknown_fields(read: Source, constraints: Mapping[str, Mapping[str, Any]]) -> None:
    names = [field.name for field in (*read.inputs, *read.outputs)]
    for name, given in constraints.items():
        if name not in names:
            near = nearest(str(name), names)
            fault = TypeFaultError(
                f"constraints for a field that does not exist: {name}",
                code="unknown_field",
                expected=f"one of {', '.join(names)}",
                near=near,
            )
            read.refuse(fault, near or None)
        if not isinstance(given, Mapping):
            fault = TypeFaultError(
                f"constraints of {name} are {given!r}",
                code="invalid_constraint",
                expected='a mapping such as {"min": 1}',
            )
            read.refuse(fault, name)


def _constrained(
    read: Source, fields: Sequence[Field], constraints: Mapping[str, Mapping[str, Any]]
) -> tuple[Field, ...]:
    return tuple(
        _constrained_field(read, field, constraints[field.name]) if constraints.get(field.name) else field
        for field in fields
    )


def _constrained_field(read: Source, field: Field, given: Mapping[str, Any]) -> Field:
    rest = {name: value for name, value in given.items() if name != "secret"}
    secret = given.get("secret", field.secret)
    if type(secret) is not bool:
        fault = TypeFaultError(
            f"secret={secret!r} is not a boolean", code="invalid_constraint", expected="true or false"
        )
        read.refuse(fault, field.name)
    try:
        return replace(field, type=constrain(field.type, rest), secret=secret)
    except TypeFaultError as fault:
        read.refuse(fault, field.name)


def _with_defaults(read: Source, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The fields with their defaults validated and converted to Python values."""
    if not any(map(has_default, fields)):
        return fields
    return tuple(_with_default(read, field) if has_default(field) else field for field in fields)


def _with_default(read: Source, field: Field) -> Field:
    if field.secret:
        fault = TypeFaultError(
            f"the secret field {field.name} has a default", code="invalid_type", expected="no secret in a signature"
        )
        read.refuse(fault, field.name)
    alone = replace(field, default=NO_DEFAULT)
    validator = _validator(read, (alone,))
    try:
        value = validator.validate_python({field.name: field.default})
    except CoreError as error:
        faults = explain(error, (alone,), {}, ())
        fault = TypeFaultError(
            f"the default of {field.name} does not fit {field.full_type}: {'; '.join(map(str, faults))}",
            code="invalid_type",
        )
        read.refuse(fault, field.name)
    return replace(field, default=value[field.name])


def _validator(read: Source, fields: tuple[Field, ...]) -> SchemaValidator:
    try:
        return build_validator(fields)
    except TypeFaultError as fault:
        read.refuse(fault)
