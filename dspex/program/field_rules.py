"""Rules: conditions between the fields of an execution, which ``complex_validation`` checks.

A rule is a text such as::

    summary.length <= review.length
    queue == "billing" implies amount > 0
    choice in options

Operands are fields of the signature, paths into a field (``order.lines[0].price``), or JSON literals; ``.length`` is
the length of a text, a list or a mapping. Operators: ``== != < <= > >= in``, and one ``implies`` between two
comparisons. A rule about a field that is absent or null does not apply; ``== null`` and ``!= null`` ask for that.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FieldRule", "RuleFault"]

_LITERAL = r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null'
_PATH = r"[A-Za-z_]\w*(?:\.\w+|\[\d+\])*"
_OPERAND = rf"(?:{_LITERAL}|{_PATH})"
_COMPARISON = re.compile(rf"\s*({_OPERAND})\s*(==|!=|<=|>=|<|>|\bin\b)\s*({_OPERAND})\s*")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_IMPLIES = re.compile(r"implies\b")

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda item, container: item in container,
}


class RuleFault(ValueError):
    """The text is not a rule; the message states what was expected."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """A literal ``value``, or the ``field`` and the ``steps`` into it."""

    value: Any = None
    field: str | None = None
    steps: tuple[str | int, ...] = ()

    def of(self, values: Mapping[str, Any]) -> Any:
        if self.field is None:
            return self.value
        found = values.get(self.field)
        for step in self.steps:
            found = _into(found, step)
        return found


@dataclass(frozen=True, slots=True)
class _Comparison:
    left: _Operand
    operator: str
    right: _Operand

    def holds(self, values: Mapping[str, Any]) -> bool | None:
        left, right = self.left.of(values), self.right.of(values)
        asks_for_null = self.operator in ("==", "!=") and _Operand() in (self.left, self.right)
        if (left is None or right is None) and not asks_for_null:
            return None
        try:
            return bool(_OPERATORS[self.operator](left, right))
        except TypeError:  # a text and a number have no order, so the comparison does not hold
            return False


@dataclass(frozen=True, slots=True)
class FieldRule:
    """A parsed rule and its text; see the module."""

    text: str
    condition: _Comparison | None
    claim: _Comparison

    @classmethod
    def parse(cls, text: str, fields: Collection[str]) -> FieldRule:
        """Parse a rule about these fields. Raises RuleFault."""
        first, rest = _comparison(text, fields)
        if not rest:
            return cls(text, None, first)
        if not (word := _IMPLIES.match(rest)):
            raise RuleFault(f"the end of the rule or 'implies' before {rest!r}")
        second, rest = _comparison(rest[word.end() :], fields)
        if rest:
            raise RuleFault(f"the end of the rule before {rest!r}")
        return cls(text, first, second)

    @property
    def fields(self) -> frozenset[str]:
        """The fields that it reads."""
        both = [self.claim] if self.condition is None else [self.condition, self.claim]
        return frozenset(side.field for c in both for side in (c.left, c.right) if side.field is not None)

    def holds(self, values: Mapping[str, Any]) -> bool | None:
        """Whether it holds for these values; None when it does not apply to them."""
        if self.condition is not None and not self.condition.holds(values):
            return None
        return self.claim.holds(values)


def _comparison(text: str, fields: Collection[str]) -> tuple[_Comparison, str]:
    found = _COMPARISON.match(text)
    if found is None:
        raise RuleFault(f"'operand operator operand', such as 'summary.length <= 200', not {text.strip()!r}")
    left, word, right = found.groups()
    return _Comparison(_operand(left, fields), word, _operand(right, fields)), text[found.end() :]


def _operand(text: str, fields: Collection[str]) -> _Operand:
    if re.fullmatch(_LITERAL, text):
        return _Operand(json.loads(text))
    field = re.match(r"\w+", text)
    assert field is not None
    if field.group() not in fields:
        raise RuleFault(f"a field of the signature ({', '.join(fields)}) or a JSON literal, not {field.group()!r}")
    steps = tuple(name or int(index) for name, index in _STEP.findall(text[field.end() :]))
    return _Operand(field=field.group(), steps=steps)


def _into(value: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return value[step] if isinstance(value, list) and step < len(value) else None
    if isinstance(value, Mapping) and step in value:
        return value[step]
    return len(value) if step == "length" and isinstance(value, str | list | tuple | Mapping) else None
