"""Custom types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dspex.signatures.compile import forget_compiled
from dspex.signatures.fields import Type
from dspex.signatures.parse.lexer import type_error
from dspex.signatures.parse.native_language import parse_type
from dspex.signatures.types.type_registry import SPECS, TypeFaultError, TypeSpec, register

__all__ = ["register_type"]


def register_type(
    name: str,
    *,
    base: str,
    validate: Callable[[Any], Any] | None = None,
    json_schema: Mapping[str, Any] | None = None,
    doc: str = "",
) -> None:
    """Add the type ``:name`` to the language, or replace a custom type of that name.

    ``base`` is a type of the language (``":string(max_length=17)"``). ``validate`` takes a value of it and returns the
    value, possibly normalized, or raises ValueError. ``json_schema`` is merged over the schema of the base; its
    ``examples`` are used by ``Signature.example``. ``doc`` is one line, by default the first
    line of ``validate``'s docstring.
    Register the type in every process that compiles signatures with it: producers and workers.

    Raises SignatureTypeError for a name that is not an identifier or belongs to a built-in type, and for an invalid
    base.
    """
    kind = parse_type(base)
    _check(name, kind)
    about = doc or (inspect.getdoc(validate) or "").partition("\n")[0] or f"A kind of {base}."
    spec = TypeSpec(
        name,
        about,
        f"a value of :{name}",
        SPECS[kind.name].constraints,
        base=kind,
        check=validate,
        json=dict(json_schema or {}),
        custom=True,
    )
    register(spec)
    forget_compiled()


def _check(name: str, base: Type) -> None:
    taken = name in SPECS and not SPECS[name].custom
    if taken or not name.isidentifier() or base.name == "optional" or name in _names(base):
        problem = "there is a built-in type of that name" if taken else f":{name} of {base} cannot be a type"
        fault = TypeFaultError(problem, code="invalid_type", expected="a new name, and a base that is not :optional")
        raise type_error(fault, f"register_type({name!r})")


def _names(kind: Type) -> Iterator[str]:
    yield kind.name
    base = SPECS[kind.name].base
    for inner in (*kind.args, *([base] if base else [])):
        yield from _names(inner)
