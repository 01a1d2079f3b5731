"""Lossless repair of a model's outputs.

A value that does not fit its type is converted if its text stands for exactly one value of that type: ``"42"`` for an
integer, ``"True"`` for a boolean, ``"85%"`` for a probability, JSON in a code fence for a list. Text is never changed
where text is expected, and ``85`` is not accepted as a probability.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic_core import SchemaValidator
from pydantic_core import ValidationError as CoreError

from dspex.signatures.fields import Field, Type
from dspex.signatures.types.type_registry import expand
from dspex.signatures.values.code_fence import without_fence
from dspex.signatures.values.loose_json import NotJsonError, NumberText, read_json
from dspex.signatures.values.validators import core_schema
from dspex.signatures.values.value_faults import shorten

__all__ = ["CheckedOutputs", "Repair", "repair"]


@dataclass(frozen=True, slots=True)
class Repair:
    """A repaired value: its path, what was done, and its short form before and after (empty for a secret)."""

    path: str
    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class CheckedOutputs:
    """Outputs and the repairs that were made."""

    values: dict[str, Any]
    repairs: tuple[Repair, ...]


def repair(fields: Sequence[Field], values: Mapping[str, Any]) -> CheckedOutputs:
    """Repair as many values as possible. The result still has to be validated."""
    repaired: dict[str, Any] = {}
    log: list[Repair] = []
    known = {field.name: field for field in fields}
    for name, value in values.items():
        field = known.get(name)
        mine: list[Repair] = []
        repaired[name] = value if field is None else _repair_value(field.full_type, value, str(name), mine)
        if field is not None and field.secret:
            mine = [Repair(str(name), "repaired", "", "")] if mine else []
        log += mine
    return CheckedOutputs(repaired, tuple(log))


class _Unchanged:
    """No repair was found."""


_NONE: Final = _Unchanged()


def _repair_value(kind: Type, value: Any, path: str, log: list[Repair]) -> Any:
    """Repair ``value`` for ``kind`` as far as possible, and append the repairs to ``log``."""
    if _fits(kind, value):
        return value
    primitive = expand(kind)
    if primitive.name == "optional":
        return _repair_optional(primitive, value, path, log)
    if primitive.name == "union":
        return _repair_union(primitive, value, path, log)
    scalar = _SCALARS.get(primitive.name)
    if scalar is not None:
        what, found = scalar(primitive, value)
        if found is _NONE or not _fits(kind, found):
            what, found = _repair_name(primitive, value)
        return _noted(found, value, what, path, log) if found is not _NONE and _fits(kind, found) else value
    if isinstance(value, str):
        found = _json_in(value)
        if isinstance(found, _Unchanged):
            return value
        value = _noted(found, value, "JSON in text", path, log)
    return _repair_inside(primitive, value, path, log)


def _noted(found: Any, before: Any, what: str, path: str, log: list[Repair]) -> Any:
    log.append(Repair(path, what, shorten(before), shorten(found)))
    return found


def _fits(kind: Type, value: Any) -> bool:
    schema: Any = core_schema(kind)
    try:
        SchemaValidator(schema).validate_python(value)
    except CoreError:
        return False
    return True


def _repair_optional(kind: Type, value: Any, path: str, log: list[Repair]) -> Any:
    if isinstance(value, str) and value.strip().lower() in ("null", "none", ""):
        return _noted(None, value, "null in text", path, log)
    return _repair_value(kind.args[0], value, path, log)


def _repair_union(kind: Type, value: Any, path: str, log: list[Repair]) -> Any:
    """Repair the value for the only member that it can be repaired for. With two such members it would be a guess."""
    found = []
    for arg in kind.args:
        mine: list[Repair] = []
        repaired = _repair_value(arg, value, path, mine)
        if _fits(arg, repaired):
            found.append((repaired, mine))
    if len(found) != 1:
        return value
    log += found[0][1]
    return found[0][0]


def _repair_inside(kind: Type, value: Any, path: str, log: list[Repair]) -> Any:
    if kind.name == "list" and isinstance(value, list):
        return [_repair_value(kind.args[0], item, f"{path}[{index}]", log) for index, item in enumerate(value)]
    if kind.name == "dict" and isinstance(value, dict):
        return {key: _repair_value(kind.args[1], item, f"{path}[{shorten(key)}]", log) for key, item in value.items()}
    if kind.name in ("object", "tagged") and isinstance(value, dict):
        types = _member_types(kind, value)
        return {
            key: _repair_value(types[key], item, f"{path}.{key}", log) if key in types else item
            for key, item in _without_nulls(kind, value, path, log).items()
        }
    return value


def _without_nulls(kind: Type, value: dict[Any, Any], path: str, log: list[Repair]) -> dict[Any, Any]:
    """The value without each null of a key that may be left out and cannot be null."""
    if not kind.defaults:
        return value
    absent = [
        key
        for key, arg, default in kind.object_keys()
        if default is not None and key in value and value[key] is None and not _fits(arg, None)
    ]
    for key in absent:
        log.append(Repair(f"{path}.{key}", "null for a key that may be left out", "None", ""))
    return {key: item for key, item in value.items() if key not in absent}


def _member_types(kind: Type, value: Mapping[Any, Any]) -> dict[str, Type]:
    members = dict(zip(kind.labels, kind.args, strict=True))
    if kind.name == "object":
        return members
    tag = value.get("tag")
    return {"value": members[tag]} if isinstance(tag, str) and tag in members else {}


_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS: Final = re.compile(r"[+-]?\d{1,3}\.\d{3}", re.ASCII)
_MOST: Final = 10**400
_NAME: Final = re.compile(r"(?:\w+\.)?(\w+)\.?")
_UUID: Final = re.compile(r"(?:urn:uuid:)?(?P<brace>\{)?(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}(?(brace)\})")
_MIDNIGHT: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ]00:00(?::00(?:\.0{1,6})?)?(?:Z|\+00:00)?", re.ASCII)
_TRUE: Final = frozenset({"true", "yes"})
_FALSE: Final = frozenset({"false", "no"})


def _json_in(text: str) -> Any:
    try:
        return read_json(without_fence(text))[0]
    except NotJsonError:
        return _NONE


def _bare(text: str) -> str:
    """The text without a code fence, whitespace, bold and quotes around it."""
    text = without_fence(text).strip()
    if len(text) > 4 and text.startswith("**") and text.endswith("**"):
        text = text[2:-2].strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        text = text[1:-1].strip()
    return text


def _number(text: str) -> float | int | _Unchanged:
    if len(text) > 400 or not _NUMBER.fullmatch(text):
        return _NONE
    if text.lstrip("+-").isdigit():
        return int(text)
    value = float(text)
    return value if math.isfinite(value) else _NONE


def _repair_integer(_: Type, value: Any) -> tuple[str, Any]:
    what = "a number in text" if isinstance(value, str) else "an integer written with decimals"
    written = value.text if isinstance(value, NumberText) else _bare(value) if isinstance(value, str) else ""
    if _THOUSANDS.fullmatch(written):  # 1.000 is a thousand in half of the world
        return what, _NONE
    number = _number(written) if isinstance(value, str) else value
    if isinstance(number, float) and number.is_integer() and abs(number) < 2**53:
        number = int(number)
    return what, number if type(number) is int else _NONE


def _repair_float(kind: Type, value: Any) -> tuple[str, Any]:
    if not isinstance(value, str):
        return "", _NONE
    text = _bare(value)
    limits = kind.limits
    if text.endswith("%") and limits.get("min", -1) >= 0 and limits.get("max", 2) <= 1:
        share = _number(text[:-1].rstrip())
        return "a percentage", _NONE if isinstance(share, _Unchanged) else float(
            f"{share}e-2" if "e" not in f"{share}" else share / 100
        )
    number = _number(text)
    return "a number in text", _NONE if isinstance(number, _Unchanged) or abs(number) > 1e308 else float(number)


def _repair_boolean(_: Type, value: Any) -> tuple[str, Any]:
    text = _bare(value).lower() if isinstance(value, str) else ""
    return "true or false in text", True if text in _TRUE else False if text in _FALSE else _NONE


def _repair_string(kind: Type, value: Any) -> tuple[str, Any]:
    if choices := kind.limits.get("one_of", ()):
        return _repair_choice(choices, value)
    text = _as_written(value)
    return "text written as a number or a truth value", _NONE if text is None else text


def _as_written(value: Any) -> str | None:
    """The text of a number or a truth value, as the model wrote it."""
    if isinstance(value, NumberText):
        return value.text
    # repr(value) is the text of a plain float: the reader of JSON keeps the text of the others.
    is_plain = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return json.dumps(value) if is_plain and abs(value) < _MOST else None


def _repair_choice(choices: Sequence[str], value: Any) -> tuple[str, Any]:
    if not isinstance(value, str):
        text = _as_written(value)
        return "a choice written as a number or a truth value", text if text in choices else _NONE
    text = _bare(value)
    folded = text.removesuffix(".").casefold()
    near = [c for c in choices if c.casefold() == folded]
    exact = [c for c in choices if c == text]
    found = exact or near
    return "a choice with other case, quotes or spaces", found[0] if len(found) == 1 else _NONE


def _repair_name(kind: Type, value: Any) -> tuple[str, Any]:
    """The value by its name: ``HIGH`` or ``Priority.HIGH`` of an enum."""
    names = dict(kind.notes).get("names")
    name = _NAME.fullmatch(_bare(value)) if names is not None and isinstance(value, str) else None
    if names is None or name is None:
        return "", _NONE
    named = {key: item for key, item in json.loads(names).items() if key.casefold() == name.group(1).casefold()}
    found = named.get(name.group(1), next(iter(named.values()), _NONE) if len(named) == 1 else _NONE)
    return "a value by its name", found


def _repair_wire(_: Type, value: Any) -> tuple[str, Any]:
    text = _bare(value) if isinstance(value, str) else ""
    if re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d.*", text, re.ASCII):
        text = text.replace(" ", "T", 1)
    return "spaces or quotes around it", text or _NONE


def _repair_date(_: Type, value: Any) -> tuple[str, Any]:
    text = _bare(value) if isinstance(value, str) else ""
    midnight = _MIDNIGHT.fullmatch(text)
    return "a date with midnight, spaces or quotes", midnight.group(1) if midnight else text or _NONE


def _repair_decimal(_: Type, value: Any) -> tuple[str, Any]:
    if isinstance(value, float):
        return "a number for the text of a decimal", _as_written(value) or _NONE
    return "spaces or quotes around it", _bare(value).removeprefix("+") if isinstance(value, str) else _NONE


def _repair_uuid(_: Type, value: Any) -> tuple[str, Any]:
    text = _bare(value) if isinstance(value, str) else ""
    return "a UUID in another form", str(UUID(text)) if _UUID.fullmatch(text) else _NONE


_SCALARS: Final[Mapping[str, Callable[[Type, Any], tuple[str, Any]]]] = {
    "string": _repair_string,
    "integer": _repair_integer,
    "float": _repair_float,
    "boolean": _repair_boolean,
    "enum": lambda kind, value: _repair_choice(kind.labels, value),
    "datetime": _repair_wire,
    "date": _repair_date,
    "time": _repair_wire,
    "duration": _repair_wire,
    "decimal": _repair_decimal,
    "uuid": _repair_uuid,
    "ipv4": _repair_wire,
    "ipv6": _repair_wire,
    "binary": _repair_wire,
}
