"""The constraints: how each is parsed, validated, written as JSON Schema and described.

:data:`CONSTRAINT_RULES` holds every constraint of every type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic_core import PydanticCustomError

from dspex.signatures.values import value_checks
from dspex.signatures.values.pattern_size import MOST_STATES, pattern_size
from dspex.signatures.values.text_forms import read_decimal

__all__ = ["CONSTRAINT_RULES", "NAMES", "ORDER", "PHRASES", "ConstraintRule", "ConstraintValueError", "merge", "read"]

ORDER = (
    "min", "max", "multiple_of", "precision", "max_digits", "min_length", "max_length", "pattern", "format", "one_of",
    "unique", "min_size", "max_size", "required_keys", "dimensions", "max_steps",
)  # fmt: skip
"""Every constraint, in the order in which a definition writes them."""

NAMES = frozenset(ORDER)
_POSITION = {name: position for position, name in enumerate(ORDER)}

PHRASES = {
    "min": "at least {}",
    "max": "at most {}",
    "multiple_of": "a multiple of {}",
    "precision": "at most {} decimals",
    "max_digits": "at most {} digits",
    "min_length": "at least {} characters",
    "max_length": "at most {} characters",
    "pattern": "text matching {!r}",
    "format": "a valid {}",
    "one_of": "one of {}",
    "unique": "no value twice",
    "min_size": "at least {} items",
    "max_size": "at most {} items",
    "required_keys": "the keys {}",
    "dimensions": "exactly {} numbers",
    "max_steps": "at most {} steps",
}
"""The description of each constraint, for people and models."""


class ConstraintValueError(Exception):
    """A constraint has an invalid value. The message says what is expected."""


@dataclass(frozen=True, slots=True)
class ConstraintRule:
    """One constraint of one primitive type.

    ``core`` is its key in the pydantic_core schema, or ``check`` makes a function that checks the value;
    ``json`` is its JSON Schema keyword, ``""`` if there is none and only DSPex checks it.
    """

    read: Callable[[Any], Any]
    json: str
    core: str = ""
    check: Callable[[Any], Callable[[Any], Any]] | None = None


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ConstraintValueError("an integer")
    if not value_checks.INT_MIN <= value <= value_checks.INT_MAX:
        raise ConstraintValueError("an integer of at most 64 bits")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConstraintValueError("a number")
    try:
        number = float(value)
    except OverflowError:
        raise ConstraintValueError("a number of at most 64 bits") from None
    if not math.isfinite(number):
        raise ConstraintValueError("a finite number")
    return number + 0.0  # -0.0 is 0.0


def _decimal(value: Any) -> Decimal:
    try:
        return read_decimal(repr(value) if isinstance(value, float) else value)
    except PydanticCustomError:
        raise ConstraintValueError("a number, or its text") from None


def _positive(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def positive(value: Any) -> Any:
        number = read(value)
        if number <= 0:
            raise ConstraintValueError("a number above 0")
        return number

    return positive


def _size(value: Any) -> int:
    number = _integer(value)
    if not 0 <= number < 2**31:
        raise ConstraintValueError("an integer from 0 to 2147483647")
    return number


def _decimals(value: Any) -> int:
    number = _integer(value)
    if not 0 <= number <= 15:
        raise ConstraintValueError("an integer from 0 to 15")
    return number


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ConstraintValueError("text")
    return value


def _pattern(value: Any) -> str:
    text = _text(value)
    if len(text) > MOST_STATES * 10 or pattern_size(text) > MOST_STATES:
        raise ConstraintValueError(
            f"a regular expression of at most {MOST_STATES:,} characters and sets, its repetitions written out: "
            "a{2,50} counts 50, and (a{10}){10} over 100"
        )
    return text


def _format(value: Any) -> str:
    if not isinstance(value, str) or value not in value_checks.FORMATS:
        raise ConstraintValueError(f"one of {', '.join(sorted(value_checks.FORMATS))}")
    return str(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ConstraintValueError("true or false")
    return value


def _options(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def options(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise ConstraintValueError("a list of at least one value")
        found = tuple(dict.fromkeys(read(item) for item in value))
        if len(found) != len(value):
            raise ConstraintValueError("a list without duplicates")
        return found

    return options


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(sorted(_options(_text)(value)))


_LENGTHS = {
    "min_length": ConstraintRule(_size, "minLength", core="min_length"),
    "max_length": ConstraintRule(_size, "maxLength", core="max_length"),
}
_ITEMS = {
    "min_size": ConstraintRule(_size, "minItems", core="min_length"),
    "max_size": ConstraintRule(_size, "maxItems", core="max_length"),
}
_ENTRIES = {
    "min_size": ConstraintRule(_size, "minProperties", core="min_length"),
    "max_size": ConstraintRule(_size, "maxProperties", core="max_length"),
    "required_keys": ConstraintRule(_keys, "required", check=value_checks.requires_keys),
}


def _range(read: Callable[[Any], Any]) -> dict[str, ConstraintRule]:
    return {
        "min": ConstraintRule(read, "minimum", core="ge"),
        "max": ConstraintRule(read, "maximum", core="le"),
        "multiple_of": ConstraintRule(_positive(read), "multipleOf", core="multiple_of"),
        "one_of": ConstraintRule(_options(read), "enum", check=value_checks.is_one_of),
    }


CONSTRAINT_RULES: Mapping[str, Mapping[str, ConstraintRule]] = {
    "string": {
        **_LENGTHS,
        "pattern": ConstraintRule(_pattern, "pattern", core="pattern"),
        "format": ConstraintRule(_format, "format", check=value_checks.has_format),
        "one_of": ConstraintRule(_options(_text), "enum", check=value_checks.is_one_of),
    },
    "integer": _range(_integer),
    "float": {**_range(_number), "precision": ConstraintRule(_decimals, "", check=value_checks.has_precision)},
    "decimal": {
        # A decimal is text in JSON, whose size JSON Schema cannot limit.
        "min": ConstraintRule(_decimal, "", check=value_checks.at_least),
        "max": ConstraintRule(_decimal, "", check=value_checks.at_most),
        "precision": ConstraintRule(_decimals, "", check=value_checks.has_decimals),
        "max_digits": ConstraintRule(_positive(_size), "", check=value_checks.has_digits),
    },
    "map": _ENTRIES,
    "dict": _ENTRIES,
    "binary": {
        # JSON Schema counts characters, so the number of bytes is checked by DSPex only
        "min_length": ConstraintRule(_size, "", core="min_length"),
        "max_length": ConstraintRule(_size, "", core="max_length"),
    },
    "list": {**_ITEMS, "unique": ConstraintRule(_flag, "uniqueItems", check=value_checks.is_unique)},
}
"""The rules by primitive type, then by constraint."""

_PAIRS = (("min", "max"), ("min_length", "max_length"), ("min_size", "max_size"))
_TIGHTER: Mapping[str, Callable[[Any, Any], Any]] = {
    "min": max, "min_length": max, "min_size": max, "max": min, "max_length": min, "max_size": min, "precision": min,
    "max_digits": min,
}  # fmt: skip
_MEANINGLESS = {"min_length": 0, "min_size": 0, "unique": False}


def read(primitive: str, name: str, value: Any) -> tuple[tuple[str, Any], ...]:
    """Parse ``name=value`` to constraints of ``primitive`` with canonical values.

    Raises :class:`ConstraintValueError` for an invalid value, KeyError for a constraint that the type does not have.
    """
    if name in ("dimensions", "max_steps"):
        size = _positive(_size)(value)
        return (("min_size", size), ("max_size", size)) if name == "dimensions" else (("max_size", size),)
    found = CONSTRAINT_RULES[primitive][name].read(value)
    return () if _MEANINGLESS.get(name) == found and name in _MEANINGLESS else ((name, found),)


def merge(have: tuple[tuple[str, Any], ...], more: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Combine two sets of constraints, in canonical order. The tighter of two limits wins.

    Raises :class:`ConstraintValueError` if no value can satisfy them all.
    """
    merged = dict(have)
    for name, value in more:
        merged[name] = _both(name, merged[name], value) if name in merged else value
    for low, high in _PAIRS:
        if low in merged and high in merged and merged[low] > merged[high]:
            raise ConstraintValueError(f"{low} of at most {high} ({low} {merged[low]} is above {high} {merged[high]})")
    return tuple(sorted(merged.items(), key=lambda item: _POSITION[item[0]]))


def _both(name: str, one: Any, other: Any) -> Any:
    if name in _TIGHTER:
        return _TIGHTER[name](one, other)
    if name == "one_of":
        common = tuple(value for value in other if value in one)
        if not common:
            raise ConstraintValueError(f"values among {', '.join(map(repr, one))}")
        return common
    if name == "required_keys":
        return tuple(sorted({*one, *other}))
    if one != other:
        raise ConstraintValueError(f"nothing: the type already has {name}={one!r}")
    return one
