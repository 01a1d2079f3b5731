"""Python's constraints in the signature language: ``Literal`` and ``Field(gt=0)``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

from dspex.signatures.fields import Type
from dspex.signatures.types.type_registry import TypeFaultError, build, constrain, expand

__all__ = ["IGNORED", "code", "from_python", "from_values", "set_of", "tuple_of"]

IGNORED = frozenset({"alias", "strict", "json_schema_extra"})
"""Arguments of ``Field`` that are neither constraints nor notes."""

_SAME = {"ge": "min", "le": "max", "decimal_places": "precision", "desc": "description"}
#: Decimals have no next larger one; a value that is nearer to an exclusive limit than this is refused, too.
_SMALLEST_STEP = Decimal("1E-20")
_EXACT = Context(prec=400)
_SIZES = {"min_length": "min_size", "max_length": "max_size"}


def tuple_of(kinds: Sequence[Type]) -> Type:
    """A tuple: a list in JSON, of as many values as it has types."""
    different = list(dict.fromkeys(kinds))
    items = different[0] if len(different) == 1 else build("union", different)
    return build("list", [items], given={"min_size": len(kinds), "max_size": len(kinds)})


def set_of(items: Type) -> Type:
    """A set: a list in JSON."""
    return build("list", [items], given={"unique": True})


def code(language: str) -> Type:
    """``dspy.Code`` of this language."""
    return constrain(build("string"), {"language": language})


def from_values(values: Sequence[Any]) -> Type:
    """The type of ``Literal[...]``: an ``:enum`` of texts, or numbers among those given."""
    kept = [value for value in values if value is not None]
    texts = tuple(dict.fromkeys(value for value in kept if isinstance(value, str)))
    numbers = list(dict.fromkeys(value for value in kept if type(value) is int))
    flags = {value for value in kept if isinstance(value, bool)}
    if len(texts) + len(numbers) + len(flags) != len({(type(v), v) for v in kept}) or len(flags) == 1 or not kept:
        raise TypeFaultError(
            f"Literal{list(values)!r} is not supported",
            code="invalid_type",
            expected="texts, integers, or both of True and False",
        )
    kinds = [build("enum", labels=texts)] if texts else []
    kinds += [build("integer", given={"one_of": numbers})] if numbers else []
    kinds += [build("boolean")] if flags else []
    kind = kinds[0] if len(kinds) == 1 else build("union", kinds)
    return kind if len(kept) == len(values) else build("optional", [kind])


def from_python(kind: Type, given: Mapping[str, Any]) -> Type:
    """``kind`` with pydantic's limits: ``ge gt le lt multiple_of min_length max_length pattern max_digits``…"""
    inner = kind.args[0] if kind.name == "optional" else kind
    primitive = expand(inner).name
    mine: dict[str, Any] = {}
    for name, value in given.items():
        if name in IGNORED or value is None:
            continue
        if name in ("gt", "lt"):
            mine["min" if name == "gt" else "max"] = _beyond(primitive, name, value, given.get("decimal_places"))
        elif name in _SIZES and primitive in ("list", "map", "dict"):
            mine[_SIZES[name]] = value
        else:
            mine[_SAME.get(name, name)] = value
    return constrain(kind, mine)


def _beyond(primitive: str, name: str, limit: Any, decimals: int | None) -> Any:
    """The closest allowed value for an exclusive limit."""
    if primitive == "decimal" and isinstance(limit, int | float | Decimal):
        step = _SMALLEST_STEP if decimals is None else Decimal(1).scaleb(-decimals)
        return _EXACT.add(Decimal(str(limit)), step if name == "gt" else -step)
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise TypeFaultError(
            f"{name}={limit!r} is not a number", code="invalid_constraint", expected="a number", key=name
        )
    up = name == "gt"
    if primitive == "integer":
        return math.floor(limit) + 1 if up else math.ceil(limit) - 1
    return math.nextafter(limit, math.inf if up else -math.inf)
