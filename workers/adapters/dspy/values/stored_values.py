"""Values of Python as they are stored: plain data that the program's signature can validate."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dspy
from pydantic import AnyUrl, BaseModel
from pydantic_core import PydanticSerializationError, Url, to_jsonable_python

from dspex.signatures.parse.class_members import stored_keys
from dspex.signatures.types.type_registry import TypeFaultError

__all__ = ["stored"]


def stored(value: Any) -> Any:
    """The value without classes of the user's or of DSPy's; what has no plain form stays as it is, such as a value that
    contains itself."""
    try:
        return _stored(value)
    except RecursionError:
        return value


def _stored(value: Any) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value)
    if _is_of_numpy(value):
        plain = value.tolist()
        return plain if _is_of_numpy(plain) else _stored(plain)  # what Python has no number for stays
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = _keys(type(value), [field.name for field in dataclasses.fields(value)])
        return {key: _stored(getattr(value, name)) for name, key in names.items()}
    return value


def _keys(cls: type, names: Iterable[str]) -> Mapping[str, str]:
    """The keys under which a signature of this class has the values of these attributes."""
    try:
        return stored_keys(cls)
    except (TypeFaultError, NameError, TypeError, AttributeError, SyntaxError):  # no signature can have it
        return {name: name for name in names}


def _stored_model(value: BaseModel) -> Any:
    """A model under the names that its schema shows. Values of DSPy's types in it are stored by their fields."""
    if any(isinstance(item, dspy.Type | BaseModel | list | tuple | dict | set) for _, item in value):
        return _fields(value)
    names = _keys(type(value), type(value).model_fields)
    try:
        dumped = value.model_dump(mode="json", by_alias=False, exclude=set(type(value).model_computed_fields))
        return {names.get(name, name): item for name, item in dumped.items()}
    except PydanticSerializationError:
        return _fields(value)


def _fields(value: BaseModel) -> Any:
    if getattr(value, "__pydantic_root_model__", False):
        return _stored(value.root)  # type: ignore[attr-defined]
    names = _keys(type(value), type(value).model_fields)
    extra = value.__pydantic_extra__ or {}
    own = {key: _plain(getattr(value, name)) for name, key in names.items()}
    return {**own, **{name: _plain(item) for name, item in extra.items()}}


def _plain(value: Any) -> Any:
    """A field's value; what the validators of a signature do not take, such as a path, as pydantic writes it."""
    plain = _stored(value)
    if type(plain) in (type(None), str, int, float, bool, list, dict):
        return plain
    return to_jsonable_python(plain, fallback=lambda kept: kept)


def _is_of_numpy(value: Any) -> bool:
    """Whether it is a number or an array of numpy, which is not imported here: a worker need not have it."""
    return any(cls.__module__ == "numpy" and cls.__name__ in ("generic", "ndarray") for cls in type(value).__mro__)


def _in_order(values: list[Any]) -> list[Any]:
    """The items of a set, in an order that does not depend on the process."""
    return sorted(values, key=lambda value: (type(value).__name__, str(value)))


# In the order in which they are looked for. DSPy's own types are stored by their fields: they write themselves as
# markers for a prompt, which cannot be read again.
_FORMS: Sequence[tuple[Any, Callable[[Any], Any]]] = (
    (dspy.Image, lambda value: {"url": value.url}),
    (dspy.Audio, lambda value: {"data": value.data, "media_type": f"audio/{value.audio_format}"}),
    (dspy.History, lambda value: {"messages": _stored(list(value.messages))}),
    (dspy.Code, lambda value: value.code),
    (dspy.Reasoning, lambda value: value.content),
    (dspy.Type, _fields),
    (enum.Enum, lambda value: _stored(value.value)),
    (BaseModel, _stored_model),
    (Mapping, lambda value: {_stored(key): _stored(item) for key, item in value.items()}),
    ((list, tuple), lambda value: [_stored(item) for item in value]),
    ((AnyUrl, Url), str),
    ((set, frozenset), lambda value: _in_order([_stored(item) for item in value])),
    (dspy.Example, lambda value: _stored(dict(value.items()))),
)
