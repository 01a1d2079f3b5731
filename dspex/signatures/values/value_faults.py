"""Conversion of pydantic_core's errors to FieldError: path, expected value, actual value, violated constraint."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic_core import ValidationError as CoreError

from dspex.errors import FieldError
from dspex.signatures.fields import Field, Type
from dspex.signatures.types.constraints import PHRASES
from dspex.signatures.types.type_registry import SPECS, expand
from dspex.signatures.values.validators import build_validator

__all__ = ["constraint_text", "explain", "phrase", "shorten"]

_CONSTRAINTS = {
    "greater_than_equal": "min",
    "less_than_equal": "max",
    "multiple_of": "multiple_of",
    "string_too_short": "min_length",
    "string_too_long": "max_length",
    "bytes_too_short": "min_length",
    "bytes_too_long": "max_length",
    "string_pattern_mismatch": "pattern",
    "too_short": "min_size",
    "too_long": "max_size",
}


#: So many faults of one mapping are described each: what is wrong a million times takes no minute and no gigabyte.
MOST_FAULTS = 1000


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlist = self.maxdict = self.maxtuple = 4
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 64 else repr(x)


_SHORT = _Short()


def shorten(value: object) -> str:
    """A short repr of a value for errors."""
    shown = _SHORT.repr(value)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def phrase(kind: Type) -> str:
    """The description of a value of this type in errors."""
    if kind.name == "enum":
        return constraint_text("one_of", kind.labels)
    if kind.name == "union":
        return " or ".join(map(phrase, kind.args))
    if kind.name == "optional":
        return f"{phrase(kind.args[0])}, or nothing"
    if kind.name == "tagged":
        return f'a map with "tag" ({constraint_text("one_of", kind.labels)}) and "value"'
    return SPECS[kind.name].phrase


def constraint_text(name: str, value: Any) -> str:
    """The description of a constraint: "at most 280 characters"."""
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
    text = PHRASES[name]
    return text if "{" not in text else text.format(shown)


def explain(
    error: CoreError, fields: Sequence[Field], values: Mapping[Any, Any], secrets: Collection[str]
) -> list[FieldError]:
    """Every fault that pydantic_core found; of more than MOST_FAULTS, one for each field and one for unknown names."""
    by_name = {field.name: field for field in fields}
    if error.error_count() > MOST_FAULTS:
        return [fault for field in fields for fault in _of_field(field, values, secrets)] + _unknown_names(
            values, by_name
        )
    found = [_explain(dict(item), by_name, secrets) for item in error.errors(include_url=False)]
    return list(dict.fromkeys(found))


def _of_field(field: Field, values: Mapping[Any, Any], secrets: Collection[str]) -> list[FieldError]:
    """The faults of a field's value, or their number."""
    given = {field.name: values[field.name]} if field.name in values else {}
    try:
        build_validator((field,)).validate_python(given)
    except CoreError as error:
        count = error.error_count()
        if count > MOST_FAULTS:
            got = "" if field.name in secrets else f"a value with {count} faults"
            return [FieldError(field.name, phrase(field.full_type), got)]
        return explain(error, (field,), given, secrets)
    return []


def _unknown_names(values: Mapping[Any, Any], fields: Mapping[str, Field]) -> list[FieldError]:
    names = [name for name in values if name not in fields]
    if not names:
        return []
    got = "an unknown field" if len(names) == 1 else f"one of {len(names)} unknown fields"
    return [FieldError(_step(names[0]), _only(fields), got)]


def _explain(item: dict[str, Any], fields: Mapping[str, Field], secrets: Collection[str]) -> FieldError:
    kind_of_error, loc = item["type"], item["loc"]
    field = fields.get(loc[0]) if loc else None
    if field is None:
        return _unknown(item, fields)
    path, kind = _locate(field.full_type, loc[1:], field.name)
    hidden = field.name in secrets
    if hidden:
        path = field.name
    if kind_of_error == "missing":
        return FieldError(path, phrase(kind), "nothing")
    if kind_of_error == "extra_forbidden":
        return FieldError(path, "no such key")
    got = "" if hidden else shorten(item["input"])
    constraint = _constraint(kind_of_error, kind)
    if constraint is None:
        return FieldError(path, _expected_type(item, kind), got)
    return FieldError(path, _expected(constraint, kind, item), got, constraint)


def _unknown(item: dict[str, Any], fields: Mapping[str, Field]) -> FieldError:
    name = item["loc"][0] if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        return FieldError(_step(name), _only(fields), "an unknown field")
    known = ", ".join(fields) or "none"
    return FieldError(_step(name), f"a mapping with the fields {known}", shorten(item["input"]))


def _only(fields: Mapping[str, Field]) -> str:
    return f"only the fields {', '.join(fields) or 'none'}"


def _expected_type(item: dict[str, Any], kind: Type) -> str:
    if item["type"] == "string_unicode":
        return f"{phrase(kind)} without lone surrogates"
    if item["type"] == "dspex_type":
        return str(item["ctx"]["message"])
    if item["type"] in ("value_error", "assertion_error"):
        return f"{phrase(kind)} ({item['ctx']['error']})"
    if item["type"] in ("greater_than_equal", "less_than_equal"):
        return f"{phrase(kind)} of at most 64 bits"
    return _with_choices(kind)


def _with_choices(kind: Type) -> str:
    """The type, or the values that it may have."""
    choices = expand(kind).limits.get("one_of")
    return constraint_text("one_of", choices) if choices else phrase(kind)


def _constraint(kind_of_error: str, kind: Type) -> str | None:
    if kind_of_error.startswith("constraint_"):
        return kind_of_error.removeprefix("constraint_")
    name = _CONSTRAINTS.get(kind_of_error)
    return name if name in expand(kind).limits else None


def _expected(constraint: str, kind: Type, item: dict[str, Any]) -> str:
    limits = expand(kind).limits
    if kind.name == "atom" and constraint == "pattern":
        return phrase(kind)
    if limits.get("min_size") == limits.get("max_size") and constraint in ("min_size", "max_size"):
        return f"exactly {limits[constraint]} items"
    return constraint_text(constraint, limits[constraint])


def _locate(kind: Type, loc: Sequence[Any], path: str) -> tuple[str, Type]:
    """The path and the type for pydantic_core's location ``loc``."""
    for index, step in enumerate(loc):
        primitive = expand(kind)
        if primitive.name == "optional":
            return _locate(primitive.args[0], loc[index:], path)
        if primitive.name == "list":
            path, kind = f"{path}[{step}]", primitive.args[0]
        elif primitive.name == "dict":
            if loc[index + 1 : index + 2] == ("[key]",):
                return f"{path}{_key(step)}", primitive.args[0]
            path, kind = f"{path}{_key(step)}", primitive.args[1]
        elif primitive.name == "object":
            path = f"{path}.{_step(step)}"
            kind = dict(zip(primitive.labels, primitive.args, strict=True)).get(step, kind)
        elif primitive.name == "tagged":
            return _locate_tagged(primitive, loc[index:], path)
        else:
            return f"{path}{_key(step)}", _ANY
    return path, kind.args[0] if kind.name == "optional" else kind


def _locate_tagged(kind: Type, loc: Sequence[Any], path: str) -> tuple[str, Type]:
    inner = dict(zip(kind.labels, kind.args, strict=True)).get(loc[0])
    if inner is None or len(loc) < 2 or loc[1] != "value":
        return (f"{path}.{_step(loc[-1])}", _ANY)
    return _locate(inner, loc[2:], f"{path}.value")


_ANY = Type("any")


def _step(step: object) -> str:
    return str(step)[:60].encode("utf-8", "backslashreplace").decode()


def _key(step: object) -> str:
    return f"[{shorten(step)}]"
