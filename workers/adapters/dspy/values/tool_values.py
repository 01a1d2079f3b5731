"""What tools return and are given, as the journal keeps it: JSON, from which the same value is made again.

A value that JSON does not have is kept with the name of its class. It is made again only from a class that this process
has imported, and only from one that holds data: the journal must not make a worker run anything else.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any
from uuid import UUID

import dspy
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from dspex.store.lifecycle.lm_calls import CLASS, VALUE

__all__ = ["NotKeptError", "kept", "made_again"]


class NotKeptError(ValueError):
    """The value cannot be made again from JSON."""


def kept(value: Any) -> Any:
    """The value as JSON. Raises NotKeptError."""
    try:
        return _plain(value)
    except RecursionError as error:  # it contains itself, for example
        raise NotKeptError from error


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is list:
        return [_plain(item) for item in value]
    if kind is dict and CLASS not in value and all(type(key) is str for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if kind is bytes:
        return _named(kind, b64encode(value).decode())
    if kind in _CONTAINERS:
        return _named(kind, [_plain(item) for item in _CONTAINERS[kind](value)])
    if not _holds_data(kind):
        raise NotKeptError
    return _checked(value, kind)


def made_again(plain: Any) -> Any:
    """The value that :func:`kept` was given. Raises NotKeptError where its class is not there any more."""
    if isinstance(plain, list):
        return [made_again(item) for item in plain]
    if not isinstance(plain, Mapping):
        return plain
    if CLASS not in plain:
        return {key: made_again(item) for key, item in plain.items()}
    kind, value = _found(plain[CLASS]), plain[VALUE]
    if kind is bytes:
        return b64decode(value)
    if kind in _CONTAINERS:
        items = made_again(value)
        return kind(dict(items)) if issubclass(kind, dspy.Example) else kind(items)
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise NotKeptError from error


def _checked(value: Any, kind: type) -> dict[str, Any]:
    """The value of a class, if it is the same when it is made again."""
    try:
        plain = _named(kind, _adapter(kind).dump_python(value, mode="json", by_alias=True))
        again = made_again(plain)
    except (PydanticSerializationError, PydanticUserError, RecursionError) as error:
        raise NotKeptError from error
    if type(again) is not kind or again != value:
        raise NotKeptError
    return plain


def _named(kind: type, value: Any) -> dict[str, Any]:
    return {CLASS: f"{kind.__module__}:{kind.__qualname__}", VALUE: value}


def _found(name: Any) -> type:
    """The class of this name. Raises NotKeptError for one that is not there, or that holds more than data."""
    home, _, inner = str(name).partition(":")
    try:
        found = reduce(getattr, inner.split("."), sys.modules[home])
    except (AttributeError, KeyError) as error:
        raise NotKeptError from error
    if not isinstance(found, type) or not (found in _CONTAINERS or _holds_data(found)):
        raise NotKeptError
    return found


def _holds_data(kind: type) -> bool:
    is_named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    is_record = issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind) or is_named_tuple
    return kind in _PLAIN or is_record or issubclass(kind, enum.Enum)


@lru_cache(maxsize=256)
def _adapter(kind: type) -> TypeAdapter[Any]:
    """Raises PydanticUserError for a class with members that pydantic does not know."""
    return TypeAdapter(kind)


_PLAIN = frozenset({bytes, date, datetime, time, timedelta, Decimal, UUID, type(Path())})
#: How the values of a class are listed; the class makes itself from such a list.
_CONTAINERS: Mapping[type, Callable[[Any], Any]] = {
    tuple: list,
    set: lambda value: sorted(value, key=repr),
    frozenset: lambda value: sorted(value, key=repr),
    dict: lambda value: [list(item) for item in value.items()],
    dspy.Prediction: lambda value: [list(item) for item in value.items()],
    dspy.Example: lambda value: [list(item) for item in value.items()],
}
