"""Checks that pydantic_core does not have. Each takes a value, and returns it or raises an error.

The error is a ``PydanticCustomError`` whose type is ``constraint_<name>`` for a violated constraint and
``dspex_type`` for a value of the wrong type.
"""

from __future__ import annotations

import ipaddress
import math
import re
import string
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pydantic_core import PydanticCustomError

__all__ = [
    "DATETIME_TEXT",
    "DATE_TEXT",
    "FORMATS",
    "INT_MAX",
    "INT_MIN",
    "MAX_DEPTH",
    "UUID_TEXT",
    "at_least",
    "at_most",
    "has_decimals",
    "has_digits",
    "has_format",
    "has_plain_address",
    "has_precision",
    "is_json",
    "is_one_of",
    "is_template",
    "is_unique",
    "requires_keys",
    "type_fault",
]

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
"""The range of integers that databases and JSON parsers support."""

MAX_DEPTH = 100
"""Deepest nesting of a JSON value inside an ``:any`` or a ``:map``."""


def _refuse(kind: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{message}", {"message": message})


def type_fault(expected: str) -> PydanticCustomError:
    """The error for a value of the wrong type."""
    return _refuse("dspex_type", expected)


def is_json(value: Any) -> Any:
    """Accept values that survive a round trip through JSON: no tuples, sets, NaN, cycles or lone surrogates."""
    _walk(value, ())
    return value


def _walk(value: Any, above: tuple[int, ...]) -> None:
    if value is None or value is True or value is False:
        return
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise _refuse("dspex_type", "integers of at most 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _refuse("dspex_type", "finite numbers")
    elif isinstance(value, dict | list):
        _walk_container(value, above)
    else:
        raise _refuse("dspex_type", f"a JSON value, and {type(value).__name__} is not one")


def _walk_container(value: dict[Any, Any] | list[Any], above: tuple[int, ...]) -> None:
    if id(value) in above:
        raise _refuse("dspex_type", "a JSON value, which cannot contain itself")
    if len(above) >= MAX_DEPTH:
        raise _refuse("dspex_type", f"a JSON value of at most {MAX_DEPTH} levels")
    inside = (*above, id(value))
    if isinstance(value, list):
        for item in value:
            _walk(item, inside)
        return
    for key, item in value.items():
        if not isinstance(key, str):
            raise _refuse("dspex_type", f"text as keys, not {type(key).__name__}")
        _check_text(key)
        _walk(item, inside)


def _check_text(value: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _refuse("dspex_type", "text without lone surrogates") from None


DATETIME_TEXT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d{1,6})?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def is_template(value: str) -> str:
    """Accept text whose ``{placeholders}`` are plain names."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
    except ValueError as error:
        raise _refuse("dspex_type", f"a template with {{name}} placeholders ({error})") from None
    for name in names:
        if not name.isidentifier():
            raise _refuse("dspex_type", f"a template whose placeholders are plain names, not {name[:40]!r}")
    return value


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def has_plain_address(value: dict[str, Any]) -> dict[str, Any]:
    """Accept an image or audio whose ``url``, if any, cannot end the line of an HTTP request that contains it."""
    if _CONTROL.search(value.get("url", "")):
        raise _refuse("dspex_type", "an address without line breaks and other control characters")
    return value


def is_one_of(allowed: tuple[Any, ...]) -> Callable[[Any], Any]:
    """A check for membership. The type has been checked before."""
    known = frozenset(allowed)

    def check(value: Any) -> Any:
        if value in known:
            return value
        raise _refuse("constraint_one_of", "not allowed")

    return check


def has_precision(decimals: int) -> Callable[[float], float]:
    """A check that a number has at most so many decimals."""

    def check(value: float) -> float:
        if round(value, decimals) == value:
            return value
        raise _refuse("constraint_precision", "too many decimals")

    return check


def at_least(limit: Any) -> Callable[[Any], Any]:
    """A check for values that can be compared with the limit."""

    def check(value: Any) -> Any:
        if value >= limit:
            return value
        raise _refuse("constraint_min", "too small")

    return check


def at_most(limit: Any) -> Callable[[Any], Any]:
    """A check for values that can be compared with the limit."""

    def check(value: Any) -> Any:
        if value <= limit:
            return value
        raise _refuse("constraint_max", "too large")

    return check


def has_decimals(most: int) -> Callable[[Decimal], Decimal]:
    """A check that a Decimal has at most so many decimals, without zeros at its end."""

    def check(value: Decimal) -> Decimal:
        if _digits(value)[1] <= most:
            return value
        raise _refuse("constraint_precision", "too many decimals")

    return check


def has_digits(most: int) -> Callable[[Decimal], Decimal]:
    """A check that a Decimal has at most so many digits, before and after the point together."""

    def check(value: Decimal) -> Decimal:
        if sum(_digits(value)) <= most:
            return value
        raise _refuse("constraint_max_digits", "too many digits")

    return check


def _digits(value: Decimal) -> tuple[int, int]:
    """The numbers of digits before and after the point, without zeros at either end."""
    _, digits, exponent = value.as_tuple()
    significant = "".join(map(str, digits)).lstrip("0")
    stripped = significant.rstrip("0")
    zeros = len(significant) - len(stripped)
    return max(0, len(significant) + int(exponent)), max(0, -int(exponent) - zeros) if stripped else 0


def is_unique(_: bool) -> Callable[[list[Any]], list[Any]]:
    """A check that a list has no duplicates, compared as in JSON: 1 equals 1.0, but not true."""

    def check(value: list[Any]) -> list[Any]:
        if len({_comparable(item) for item in value}) == len(value):
            return value
        raise _refuse("constraint_unique", "duplicate value")

    return check


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return "map", frozenset((key, _comparable(item)) for key, item in value.items())
    if isinstance(value, list):
        return "list", tuple(map(_comparable, value))
    return isinstance(value, bool), value


def requires_keys(keys: tuple[str, ...]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A check that a map has these keys."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        if all(key in value for key in keys):
            return value
        raise _refuse("constraint_required_keys", "a key is missing")

    return check


_EMAIL = re.compile(r"(?=.{1,320}$)[^@\s]{1,64}@([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,63}")
_HOSTNAME = re.compile(
    r"(?=.{1,253}$)[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
_DURATION = re.compile(r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)", re.ASCII)
DATE_TEXT = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:[^\s<>\"{}|\\^`]+")
UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _matches(pattern: re.Pattern[str], parse: Callable[[str], Any] = str) -> Callable[[str], bool]:
    return lambda value: pattern.fullmatch(value) is not None and parse(value) is not None


FORMATS: Mapping[str, Callable[[str], object]] = {
    "date": _matches(DATE_TEXT, date.fromisoformat),
    "date-time": lambda value: DATETIME_TEXT.fullmatch(value) and datetime.fromisoformat(value.upper()),
    "duration": _matches(_DURATION),
    "email": _matches(_EMAIL),
    "hostname": _matches(_HOSTNAME),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "time": _matches(_TIME, lambda value: time.fromisoformat(value.upper()[:15].rstrip("Z"))),
    "uri": _matches(_URI),
    "uuid": _matches(UUID_TEXT),
}
"""The formats of JSON Schema that are checked: each function is falsy or raises ValueError for other text."""


def has_format(name: str) -> Callable[[str], str]:
    """A check that text has a format of JSON Schema."""
    fits = FORMATS[name]

    def check(value: str) -> str:
        try:
            ok = bool(fits(value))
        except ValueError:
            ok = False
        if ok:
            return value
        raise _refuse("constraint_format", "invalid format")

    return check
