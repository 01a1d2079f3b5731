"""Values of Python as they are stored: plain data that the program's signature can validate."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["stored"]


def stored(value: Any) -> Any:
    """The value without classes of the user's or of DSPy's; what has no plain form stays as it is."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    match value:
        case dspy.Type():
            return _stored_type(value)
        case enum.Enum():
            return stored(value.value)
        case BaseModel():
            return _stored_model(value)
        case Mapping():
            return {stored(key): stored(item) for key, item in value.items()}
        case list() | tuple():
            return [stored(item) for item in value]
        case set() | frozenset():
            return _in_order([stored(item) for item in value])
        case dspy.Prediction() | dspy.Example():
            return stored(dict(value.items()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: stored(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def _stored_type(value: dspy.Type) -> Any:
    """DSPy's own types by their fields; they write themselves as markers for a prompt, which cannot be read again."""
    match value:
        case dspy.Image():
            return {"url": value.url}
        case dspy.Audio():
            return {"data": value.data, "media_type": f"audio/{value.audio_format}"}
        case dspy.History():
            return {"messages": stored(list(value.messages))}
        case dspy.Code():
            return {"code": value.code}
        case dspy.Reasoning():
            return {"content": value.content}
    return _fields(value)


def _stored_model(value: BaseModel) -> Any:
    """A model under the names that its schema shows. Values of DSPy's types in it are stored by their fields."""
    if any(isinstance(item, dspy.Type | BaseModel | list | tuple | dict | set) for _, item in value):
        return _fields(value)
    try:
        return value.model_dump(mode="json", by_alias=True)
    except PydanticSerializationError:
        return _fields(value)


def _fields(value: BaseModel) -> Any:
    if getattr(value, "__pydantic_root_model__", False):
        return stored(value.root)  # type: ignore[attr-defined]
    infos = type(value).model_fields
    names = {name: info.serialization_alias or info.alias or name for name, info in infos.items()}
    extra = value.__pydantic_extra__ or {}
    own = {names[name]: _plain(getattr(value, name)) for name in infos}
    return {**own, **{name: _plain(item) for name, item in extra.items()}}


def _plain(value: Any) -> Any:
    """A field's value; what the validators of a signature do not take, such as a path, as pydantic writes it."""
    plain = stored(value)
    if type(plain) in (type(None), str, int, float, bool, list, dict):
        return plain
    return to_jsonable_python(plain, fallback=lambda kept: kept)


def _in_order(values: list[Any]) -> list[Any]:
    """The items of a set, in an order that does not depend on the process."""
    return sorted(values, key=lambda value: (type(value).__name__, str(value)))
