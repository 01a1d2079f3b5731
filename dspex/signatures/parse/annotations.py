"""Conversion between Python annotations and types of the signature language."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, Optional, Union

from dspex.signatures.fields import Type
from dspex.signatures.types.python_constraints import from_python, from_values
from dspex.signatures.types.type_registry import SPECS, TypeFaultError, build, expand

__all__ = ["from_annotation", "to_annotation"]

_SCALARS: Mapping[Any, str] = {
    str: "string", int: "integer", float: "float", bool: "boolean", bytes: "binary", datetime: "datetime",
    Any: "any", dict: "map", collections.abc.Mapping: "map", typing.Dict: "map", typing.Mapping: "map",  # noqa: UP006
}  # fmt: skip
_LISTS = (list, collections.abc.Sequence)
_DICTS = (dict, collections.abc.Mapping)
_DSPY = {"Image": "image", "Audio": "audio", "History": "history"}
_LIMITS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern")


def from_annotation(annotation: Any, metadata: Iterable[Any] = (), seen: tuple[type, ...] = ()) -> Type:
    """The type for a Python annotation.

    ``metadata`` are the other arguments of ``Annotated``. Raises TypeFaultError for a type that JSON cannot represent.
    """
    kind = _from_annotation(annotation, seen)
    limits = {name: value for item in metadata for name, value in _limits_of(item)}
    return from_python(kind, limits) if limits else kind


def _limits_of(item: Any) -> Iterable[tuple[str, Any]]:
    """The limits in ``annotated_types`` markers and in a pydantic ``FieldInfo``, by their shape."""
    for inner in getattr(item, "metadata", ()):
        yield from _limits_of(inner)
    for name in _LIMITS:
        value = getattr(item, name, None)
        if value is not None:
            yield name, value


def _from_annotation(annotation: Any, seen: tuple[type, ...]) -> Type:
    if isinstance(annotation, collections.abc.Hashable) and annotation in _SCALARS:
        return build(_SCALARS[annotation])
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    form = _FORMS.get(origin)
    if form is not None:
        return form(args, seen)
    if origin in _LISTS or annotation in (list, typing.List, typing.Sequence):  # noqa: UP006
        return build("list", [from_annotation(args[0], (), seen) if args else build("any")])
    if origin in _DICTS and args:
        return build("dict", [from_annotation(arg, (), seen) for arg in args])
    if isinstance(annotation, type):
        return _from_class(annotation, seen)
    raise _unknown(annotation)


def _unknown(annotation: Any) -> TypeFaultError:
    name = annotation.__name__ if isinstance(annotation, type) else repr(annotation)
    return TypeFaultError(f"unknown type {name[:80]}", expected="a type that JSON can hold, such as str or list[str]")


def _from_union(args: Sequence[Any], seen: tuple[type, ...]) -> Type:
    kinds = [from_annotation(arg, (), seen) for arg in args if arg is not type(None)]
    kind = kinds[0] if len(kinds) == 1 else build("union", kinds)
    return build("optional", [kind]) if len(kinds) < len(args) else kind


_FORMS: Mapping[Any, Callable[[Sequence[Any], tuple[type, ...]], Type]] = {
    Annotated: lambda args, seen: from_annotation(args[0], args[1:], seen),
    Literal: lambda args, _: from_values(args),
    Union: _from_union,
    types.UnionType: _from_union,
}


def _from_class(cls: type, seen: tuple[type, ...]) -> Type:
    if cls.__module__.partition(".")[0] == "dspy" and cls.__name__ in _DSPY:
        return build(_DSPY[cls.__name__])
    if issubclass(cls, enum.Enum):
        return from_values([member.value for member in cls])
    if cls in seen:
        raise TypeFaultError(f"{cls.__name__} contains itself", code="invalid_type", expected="a type of finite depth")
    members = _members(cls, (*seen, cls))
    if not members:
        raise _unknown(cls)
    return build("object", list(members.values()), list(members))


def _members(cls: Any, seen: tuple[type, ...]) -> dict[str, Type]:
    """The keys of a pydantic model, a TypedDict or a dataclass. Keys that may be missing are optional."""
    if hasattr(cls, "model_fields"):
        return {
            name: _maybe(from_annotation(info.annotation, info.metadata, seen), info.is_required())
            for name, info in cls.model_fields.items()
        }
    if hasattr(cls, "__required_keys__"):
        hints = typing.get_type_hints(cls, include_extras=True)
        return {name: _key(hint, name in cls.__required_keys__, seen) for name, hint in hints.items()}
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls, include_extras=True)
        return {
            f.name: _maybe(from_annotation(hints[f.name], (), seen), _must_be_given(f)) for f in dataclasses.fields(cls)
        }
    return {}


def _key(hint: Any, required: bool, seen: tuple[type, ...]) -> Type:
    """The type of a TypedDict's key; ``Required`` and ``NotRequired`` override the class."""
    origin = typing.get_origin(hint)
    if origin in (typing.Required, typing.NotRequired):
        required, hint = origin is typing.Required, typing.get_args(hint)[0]
    return _maybe(from_annotation(hint, (), seen), required)


def _must_be_given(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _maybe(kind: Type, required: bool) -> Type:
    return kind if required else build("optional", [kind])


# and back


def to_annotation(kind: Type) -> Any:
    """The Python annotation of a type's values: ``list[str]``, ``Literal["a"]``, a TypedDict for an object.

    It does not include constraints, which DSPex's validators check.
    """
    return _annotation(kind, "".join(map(str.capitalize, kind.name.split("_"))))


def _annotation(kind: Type, title: str) -> Any:
    primitive = expand(kind)
    options = primitive.limits.get("one_of")
    if options and primitive.name in ("string", "integer"):
        return Literal[options]
    spec = SPECS[primitive.name]
    if spec.python is not None:
        return spec.python
    return _COMPOSITES[primitive.name](primitive, title)


def _inner(kind: Type) -> Any:
    return to_annotation(kind)


def _typed_dict(title: str, members: Mapping[str, Any], optional: frozenset[str] = frozenset()) -> Any:
    from typing_extensions import TypedDict  # not typing's: pydantic wants this one before Python 3.12

    hints = {key: NotRequired[hint] if key in optional else hint for key, hint in members.items()}
    return TypedDict(title, hints)  # type: ignore[operator]


def _object(kind: Type, title: str) -> Any:
    members = dict(zip(kind.labels, kind.args, strict=True))
    optional = frozenset(key for key, arg in members.items() if arg.name == "optional")
    return _typed_dict(title, {key: _inner(arg) for key, arg in members.items()}, optional)


def _tagged(kind: Type, _: str) -> Any:
    variants = tuple(
        _typed_dict(
            "".join(c if c.isalnum() else "_" for c in f"Tagged_{tag}"), {"tag": Literal[tag], "value": _inner(arg)}
        )
        for tag, arg in zip(kind.labels, kind.args, strict=True)
    )
    return Union[variants]  # noqa: UP007 - made at run time


_COMPOSITES: Mapping[str, Callable[[Type, str], Any]] = {
    "enum": lambda kind, _: Literal[kind.labels],
    "list": lambda kind, _: list[_inner(kind.args[0])],  # type: ignore[misc]
    "dict": lambda kind, _: dict[str, _inner(kind.args[1])],  # type: ignore[misc]
    "optional": lambda kind, _: Optional[_inner(kind.args[0])],  # noqa: UP045
    "union": lambda kind, _: Union[tuple(map(_inner, kind.args))],  # noqa: UP007
    "tagged": _tagged,
    "object": _object,
}
