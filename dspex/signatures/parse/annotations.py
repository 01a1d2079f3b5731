"""Conversion between Python annotations and types of the signature language."""

from __future__ import annotations

import collections.abc
import datetime as dt
import decimal
import enum
import ipaddress
import re
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired, Optional, Union

from dspex.signatures.fields import LEFT_OUT, NO_DEFAULT, Type
from dspex.signatures.parse.class_members import (
    UNKNOWN_DEFAULT,
    ClassMember,
    class_notes,
    enum_names,
    field_notes,
    json_of,
    members_of,
)
from dspex.signatures.parse.class_scope import local_types, resolve
from dspex.signatures.types.python_constraints import code, from_python, from_values, set_of, tuple_of
from dspex.signatures.types.type_registry import SPECS, TypeFaultError, build, constrain, expand
from dspex.signatures.values.validators import key_default

__all__ = ["Scope", "from_annotation", "to_annotation", "without_secret"]

_SCALARS: Mapping[Any, str] = {
    str: "string", int: "integer", float: "float", bool: "boolean", bytes: "binary", dt.datetime: "datetime",
    dt.date: "date", dt.time: "time", dt.timedelta: "duration", decimal.Decimal: "decimal", uuid.UUID: "uuid",
    ipaddress.IPv4Address: "ipv4", ipaddress.IPv6Address: "ipv6",
    Any: "any", dict: "map", collections.abc.Mapping: "map", typing.Dict: "map", typing.Mapping: "map",  # noqa: UP006
}  # fmt: skip
_LISTS = (list, collections.abc.Sequence)
_SETS = (set, frozenset, collections.abc.Set)
_DICTS = (dict, collections.abc.Mapping)
_DSPY = {"Image": "image", "Audio": "audio", "History": "history", "Code": "string", "Reasoning": "string"}
_LIMITS = (
    "ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "max_digits", "decimal_places",
)  # fmt: skip

#: How often a class that contains itself is written out. Values within the last one may be anything.
LEVELS = 3


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an annotation stands: in these classes, the innermost last, which can name these types of functions."""

    classes: tuple[type, ...] = ()
    local: Mapping[str, Any] = field(default_factory=dict)

    def within(self, cls: type) -> Scope:
        return Scope((*self.classes, cls), {**self.local, **local_types(cls)})


_NOWHERE = Scope()


def from_annotation(annotation: Any, metadata: Iterable[Any] = (), scope: Scope = _NOWHERE) -> Type:
    """The type for a Python annotation.

    ``metadata`` are the other arguments of ``Annotated``. Raises TypeFaultError for a type that JSON cannot represent.
    """
    kind = _from_annotation(annotation, scope)
    for item in metadata:
        kind = from_python(kind, dict(_limits_of(item)))
        kind = constrain(kind, _notes_of(item))
    return kind


def _limits_of(item: Any) -> Iterable[tuple[str, Any]]:
    """The limits in ``annotated_types`` markers and in a pydantic ``FieldInfo``, by their shape."""
    for inner in getattr(item, "metadata", ()):
        yield from _limits_of(inner)
    for name in _LIMITS:
        value = getattr(item, name, None)
        if value is not None:
            yield name, getattr(value, "pattern", value)  # a compiled regular expression has its text there
    schemes = getattr(item, "allowed_schemes", None)
    if schemes:
        yield "pattern", f"^({'|'.join(map(re.escape, schemes))})://"


def _notes_of(item: Any) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    for inner in getattr(item, "metadata", ()):
        notes = {**_notes_of(inner), **notes}
    try:
        return notes | field_notes(item)
    except ValueError as error:
        raise TypeFaultError(
            f"an example cannot be written as JSON: {error}",
            code="invalid_type",
            expected="examples that JSON can hold",
        ) from None


def _from_annotation(annotation: Any, scope: Scope) -> Type:
    if isinstance(annotation, collections.abc.Hashable) and annotation in _SCALARS:
        return build(_SCALARS[annotation])
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    form = _FORMS.get(tuple if annotation is tuple else origin)
    if form is not None:
        return form(args, scope)
    if origin in _LISTS or annotation in (list, typing.List, typing.Sequence):  # noqa: UP006
        return build("list", [_item(args, scope)])
    if origin in _DICTS and args:
        return build("dict", [from_annotation(arg, (), scope) for arg in args])
    if origin in _SETS or annotation in _SETS:
        return set_of(_item(args, scope))
    return _from_name(annotation, scope)


def _item(args: Sequence[Any], scope: Scope) -> Type:
    return from_annotation(args[0], (), scope) if args else build("any")


def _from_tuple(args: Sequence[Any], scope: Scope) -> Type:
    """A tuple is a list in JSON: of one type if it has any length, else of as many values as it has types."""
    if not args or args[-1] is Ellipsis:
        return build("list", [_item(args, scope)])
    return tuple_of([from_annotation(arg, (), scope) for arg in args])


def _from_name(annotation: Any, scope: Scope) -> Type:
    """The type for a class, a ``NewType`` or a postponed annotation."""
    if isinstance(annotation, str | typing.ForwardRef):
        inner = resolve(annotation, scope.classes[-1] if scope.classes else None, scope.local)
        return from_annotation(inner, (), scope)
    if isinstance(annotation, typing.NewType):
        return from_annotation(annotation.__supertype__, (), scope)
    if isinstance(annotation, type):
        return _from_class(annotation, scope)
    raise _unknown(annotation)


def _unknown(annotation: Any) -> TypeFaultError:
    name = annotation.__name__ if isinstance(annotation, type) else repr(annotation)
    return TypeFaultError(f"unknown type {name[:80]}", expected="a type that JSON can hold, such as str or list[str]")


def _from_union(args: Sequence[Any], scope: Scope) -> Type:
    kinds = [from_annotation(arg, (), scope) for arg in args if arg is not type(None)]
    kind = kinds[0] if len(kinds) == 1 else build("union", kinds)
    return build("optional", [kind]) if len(kinds) < len(args) else kind


_FORMS: Mapping[Any, Callable[[Sequence[Any], Scope], Type]] = {
    Annotated: lambda args, scope: from_annotation(args[0], args[1:], scope),
    Literal: lambda args, _: from_values(args),
    Union: _from_union,
    types.UnionType: _from_union,
    tuple: _from_tuple,
}


def _from_class(cls: type, scope: Scope) -> Type:
    if (known := _from_dspy(cls)) is not None:
        return known
    if issubclass(cls, enum.Enum):
        kind = from_values([member.value for member in cls])
        return constrain(kind, class_notes(cls) | {"names": enum_names(cls)})
    if (known := _from_pydantic(cls)) is not None:
        return known
    if scope.classes.count(cls) >= LEVELS:  # it contains itself
        return build("any")
    inside = scope.within(cls)
    members = list(members_of(cls, inside.local))
    if not members:
        raise _unknown(cls)
    kinds = [_member_type(cls, member, inside) for member in members]
    if getattr(cls, "__pydantic_root_model__", False):
        return constrain(kinds[0], class_notes(cls))
    defaults = [_default(kind, member) for kind, member in zip(kinds, members, strict=True)]
    kind = build("object", kinds, [member.key for member in members], defaults=defaults)
    return constrain(kind, class_notes(cls))


def _from_dspy(cls: type) -> Type | None:
    """The types of DSPy that stand for media, text and code."""
    names = [base.__name__ for base in cls.__mro__ if base.__module__.partition(".")[0] == "dspy"]
    if "Tool" in names:
        raise TypeFaultError(
            "dspy.Tool is code, and no value of an execution",
            code="invalid_type",
            expected="tools that the program names in `tools`, or that a module of your own makes",
        )
    name = next((name for name in names if name in _DSPY), None)  # Code["java"] is a class derived from Code
    if name is None:
        return None
    return code(getattr(cls, "language", "")) if name == "Code" else build(_DSPY[name])


def _from_pydantic(cls: type) -> Type | None:
    """The types of pydantic that stand for text, by their names."""
    if any(base.__name__ in ("_BaseUrl", "_BaseMultiHostUrl") for base in cls.__mro__) or (
        cls.__module__.startswith("pydantic_core") and cls.__name__ in ("Url", "MultiHostUrl")
    ):
        return from_python(build("url"), dict(_limits_of(getattr(cls, "_constraints", None))))
    if not cls.__module__.startswith("pydantic."):
        return None
    if cls.__name__ == "EmailStr":
        return build("string", given={"format": "email"})
    if cls.__name__ in ("SecretStr", "SecretBytes"):
        raise TypeFaultError(
            f"{cls.__name__} inside of a value", code="invalid_type", expected="a field of its own, which is secret"
        )
    return None


def without_secret(annotation: Any) -> tuple[Any, bool]:
    """The annotation of a field with text for pydantic's ``SecretStr``, and whether it was one."""
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType) and len(args) == 2 and type(None) in args:
        inner, is_secret = without_secret(args[0] if args[1] is type(None) else args[1])
        return (Optional[inner] if is_secret else annotation), is_secret  # noqa: UP045
    plain = {"SecretStr": str, "SecretBytes": bytes}.get(getattr(annotation, "__name__", ""))
    is_secret = plain is not None and annotation.__module__.startswith("pydantic.")
    return (plain, True) if is_secret else (annotation, False)


def _member_type(cls: type, member: ClassMember, scope: Scope) -> Type:
    try:
        return from_annotation(member.annotation, member.metadata, scope)
    except TypeFaultError as fault:
        raise fault.inside(f"{cls.__name__}.{member.key}") from None


def _default(kind: Type, member: ClassMember) -> str | None:
    """The default of a key: what the class puts there itself is left out, unless it is plain data of the type."""
    if member.default is NO_DEFAULT:
        return None
    if member.default is UNKNOWN_DEFAULT:
        return LEFT_OUT
    try:
        return key_default(kind, json_of(member.default))
    except (TypeFaultError, ValueError):
        return LEFT_OUT


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


def _typed_dict(title: str, members: Mapping[str, Any]) -> Any:
    from typing_extensions import TypedDict  # not typing's: pydantic wants this one before Python 3.12

    return TypedDict(title, dict(members))  # type: ignore[operator]


def _object(kind: Type, title: str) -> Any:
    """Validated values have all keys, except those that stay away when they are left out."""
    members = {
        key: NotRequired[_inner(arg)] if default == LEFT_OUT else _inner(arg)
        for key, arg, default in kind.object_keys()
    }
    return _typed_dict(title, members)


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
