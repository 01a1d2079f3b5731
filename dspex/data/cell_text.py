"""Values as the text of a cell, and the text of a cell as a value."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from dspex.signatures.fields import Type
from dspex.signatures.types.type_registry import expand, is_text

__all__ = ["ReadAll", "cell_text", "is_missing", "json_cell", "json_text", "plain_value",
           "python_value_reader",
           "text_column_reader", "text_value_reader"]  # fmt: skip

Read = Callable[[Any], Any]
ReadAll = Callable[[Sequence[Any]], Iterable[Any]]
_BOOLEANS = {"true": True, "false": False}


def cell_text(value: Any) -> str:
    """A value as the text of a cell: text as it is, nothing for null and NaN, lists and objects as JSON."""
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    make: Callable[[Any], str] = next((make for kinds, make in _TEXTS if isinstance(value, kinds)), str)
    return make(value)


def json_cell(value: Any) -> Any:
    """A cell for a line of JSON: NaN as null; what JSON does not have is left to :func:`json_text`."""
    return None if is_missing(value) else value


def json_text(value: Any, *, compact: bool = False) -> str:
    """A value as JSON: NaN as null, and what JSON does not have as the text of a cell, also infinity and keys."""
    encode = _COMPACT if compact else _SPACED
    try:
        return encode(value)
    except (TypeError, ValueError):
        return encode(_json_value(value))


def is_missing(value: Any) -> bool:
    """Whether a cell of a typed column has no value: None, NaN, and the missing values of pandas."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return type(value).__name__ in ("NAType", "NaTType")


def text_value_reader(kind: Type) -> Read:
    """The function that makes a value of this type from the text of a cell.

    What it cannot read it returns as it is: the signature's validator has a clearer error. Times, decimals, bytes and
    the like stay text, which the validator reads in the same way wherever a value comes from.
    """
    if is_text(kind):
        return _same
    booleans = expand(kind).name == "boolean"

    def value(text: str) -> Any:
        if booleans and (found := _BOOLEANS.get(text.strip().lower())) is not None:
            return found
        try:
            return _decoded(text)
        except (ValueError, RecursionError):
            return text

    return value


def text_column_reader(kind: Type) -> ReadAll:
    """As :func:`text_value_reader`, for many cells of which none is empty. Numbers are read together."""
    read = text_value_reader(kind)
    if read is _same:
        return _same

    def values(cells: Sequence[str]) -> Iterable[Any]:
        text = ",".join(cells)
        if not text.strip("-+.0123456789eE,"):
            with suppress(ValueError):
                numbers: list[Any] = _STRICT.decode(f"[{text}]")
                if len(numbers) == len(cells):  # no comma is in a cell
                    return numbers
        return map(read, cells)

    return values


def python_value_reader(kind: Type) -> Read:
    """The function that makes a value of this type from a cell of a typed column.

    A number or a date becomes text for a field of text, and 5.0 becomes 5 for an integer: pandas has no integers in a
    column with missing values. An integer is never rounded; a decimal for a float becomes the nearest float. Text for a
    field of another type is read as in CSV.
    """
    name = expand(kind).name
    if name in ("string", "enum"):
        return _text_of
    read = {"integer": _integer, "float": _number, "dict": _map, "map": _map}.get(name, plain_value)
    read_text = text_value_reader(kind)
    return lambda value: read_text(value) if isinstance(value, str) else read(value)


_TEXTS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (bool, lambda value: "true" if value else "false"),
    (int | float, repr),
    (bytes, lambda value: base64.b64encode(value).decode("ascii")),
    (datetime | date | time, lambda value: value.isoformat()),
    (dict | list | tuple, json_text),
)
#: JSON without NaN and Infinity. Each is made once: `json.dumps` with options makes one for each value.
_SPACED = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=cell_text).encode
_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=cell_text, separators=(",", ":")).encode


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {cell_text(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else cell_text(value)
    return value


def _same(value: Any) -> Any:
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


#: JSON without NaN and Infinity. It is made once: `json.loads` with options makes one for each text.
_STRICT = json.JSONDecoder(parse_constant=_no_constant)


def _decoded(text: str) -> Any:
    """A text of JSON as its value. Most are plain numbers, which need no parser."""
    plain = text.isdecimal() and text.isascii() and (text == "0" or not text.startswith("0"))
    return int(text) if plain else _STRICT.decode(text)


def plain_value(value: Any) -> Any:
    """Arrays and numbers of NumPy as lists and numbers of Python."""
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _text_of(value: Any) -> Any:
    value = plain_value(value)
    plain = isinstance(value, int | float | Decimal | date | time) and not isinstance(value, bool)
    return cell_text(value) if plain else value


def _integer(value: Any) -> Any:
    value = plain_value(value)
    return int(value) if not isinstance(value, bool | int) and _is_whole(value) else value


def _number(value: Any) -> Any:
    value = plain_value(value)
    return float(value) if type(value).__name__ == "Decimal" else value


def _map(value: Any) -> Any:
    """pandas has a map of Arrow or Parquet as a list of pairs."""
    pairs = isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value)
    return plain_value(dict(value) if pairs else value)


def _is_whole(value: Any) -> bool:
    try:
        return bool(value == int(value))
    except (TypeError, ValueError, OverflowError):
        return False
