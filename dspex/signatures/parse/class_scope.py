"""Annotations of classes as types: resolves postponed ones, also in classes that a function defines."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from dspex.signatures.types.type_registry import TypeFaultError

__all__ = ["annotations_of", "keep_local_types", "local_types", "resolve"]

_LOCAL = ".<locals>."
_KEPT = "__dspex_local_types__"
"""Where a class keeps the types that it can name and its module does not have."""


def local_types(cls: type) -> dict[str, Any]:
    """The types that the annotations of a class may name because they were defined in the function that defined it.

    They are found while that function runs; a SignatureModel keeps what it found when it was defined.
    """
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names |= vars(base).get(_KEPT, {})
    for variables in _enclosing(cls):
        names |= {name: value for name, value in variables.items() if _is_type(value)}
    return names


def keep_local_types(cls: type) -> None:
    """Keep the types that the class may name, for when the function around it has returned."""
    if names := local_types(cls):
        setattr(cls, _KEPT, names)


def _enclosing(cls: type) -> Iterator[Mapping[str, Any]]:
    """The variables around a class that are not of its module, as far as their code runs: the outermost first.

    They belong to functions, and to code that ``exec`` runs.
    """
    found: list[Mapping[str, Any]] = []
    module = sys.modules.get(cls.__module__)
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        code, names = frame.f_code, frame.f_globals
        if names.get("__name__", "builtins") == cls.__module__:
            is_module = module is not None and vars(module) is names
            if cls.__qualname__.startswith(f"{code.co_qualname}{_LOCAL}"):
                found += [frame.f_locals] if is_module else [frame.f_locals, names]
            elif code.co_name == "<module>" and not is_module:
                found.append(frame.f_locals)
        frame = frame.f_back
    return iter(found[::-1])


def _is_type(value: object) -> bool:
    return isinstance(value, type) or typing.get_origin(value) is not None or isinstance(value, typing.NewType)


def annotations_of(cls: type, local: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of a class and its bases, with ``Annotated``. Raises TypeFaultError for one without a meaning."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # an annotation is an expression of the user's
        if not isinstance(error, NameError):
            raise _unreadable(cls, local, error) from None
    inner = {name: value for name, value in vars(cls).items() if isinstance(value, type)}
    try:
        return typing.get_type_hints(cls, localns={**inner, **local}, include_extras=True)
    except Exception as error:
        raise _unreadable(cls, local, error) from None


def resolve(annotation: str | typing.ForwardRef, cls: type | None, local: Mapping[str, Any]) -> Any:
    """The type that an annotation names in a class. Raises TypeFaultError."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    module = sys.modules.get(cls.__module__) if cls is not None else None
    try:
        return typing.get_type_hints(holder, vars(module) if module else {}, dict(local), include_extras=True)["it"]
    except Exception as error:
        text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
        raise _fault(f"the annotation {text!r}", error) from None


def _unreadable(cls: type, local: Mapping[str, Any], error: Exception) -> TypeFaultError:
    """The fault for the first annotation that raises this error."""
    for base in reversed(cls.__mro__):
        for name, text in _texts(base).items():
            try:
                resolve(text, base, local)
            except TypeFaultError as fault:
                if _said(error) in str(fault):
                    return _fault(f"the annotation {text!r} of {name} in {cls.__name__}", error)
    return _fault(f"an annotation of {cls.__name__}", error)


def _texts(cls: type) -> dict[str, str]:
    """The annotations of a class that may not have been evaluated yet, as text."""
    if sys.version_info >= (3, 14):  # each may be one, and is evaluated when it is read
        from annotationlib import Format, get_annotations

        try:
            return get_annotations(cls, format=Format.STRING)
        except Exception:  # what needs no name is computed all the same: 1/0
            return {}
    return {name: each for name, each in inspect.get_annotations(cls).items() if isinstance(each, str)}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _fault(what: str, error: Exception) -> TypeFaultError:
    return TypeFaultError(
        f"{what} cannot be evaluated: {_said(error)}",
        code="unknown_type",
        expected="types that are defined in the module of the class, or in the function that defines it while it runs",
    )
