"""Example text for regular expressions."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["text_matching"]

#: The standard library's own parser of patterns.
parser = import_module("re._parser")

_PRINTABLE = [chr(code) for code in range(32, 127)]
_CATEGORIES = {
    "CATEGORY_DIGIT": [c for c in _PRINTABLE if c.isdigit()],
    "CATEGORY_NOT_DIGIT": [c for c in _PRINTABLE if not c.isdigit()],
    "CATEGORY_SPACE": [" "],
    "CATEGORY_NOT_SPACE": [c for c in _PRINTABLE if c != " "],
    "CATEGORY_WORD": [c for c in _PRINTABLE if c.isalnum() or c == "_"],
    "CATEGORY_NOT_WORD": [c for c in _PRINTABLE if not (c.isalnum() or c == "_")],
}
_EXTRA = 8
"""The largest number of repetitions above the minimum."""


def text_matching(pattern: str, rng: random.Random) -> str:
    """Text that contains a match of ``pattern``. Raises ValueError for a pattern that Python cannot parse."""
    try:
        tree = parser.parse(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: {error}") from None
    return "".join(_node(op, arg, rng) for op, arg in tree)


def _node(op: Any, arg: Any, rng: random.Random) -> str:
    write = _WRITERS.get(str(op))
    if write is None:
        raise ValueError(f"no example for {op} in a pattern")
    return write(arg, rng)


def _all(nodes: Any, rng: random.Random) -> str:
    return "".join(_node(op, arg, rng) for op, arg in nodes)


def _repeat(arg: Any, rng: random.Random) -> str:
    low, high, nodes = arg
    times = rng.randint(low, max(low, min(int(high), low + _EXTRA)))
    return "".join(_all(nodes, rng) for _ in range(times))


def _characters(op: Any, arg: Any) -> list[str]:
    if str(op) == "RANGE":
        return [chr(code) for code in range(arg[0], min(arg[1], arg[0] + 200) + 1)]
    return _CATEGORIES[str(arg)] if str(op) == "CATEGORY" else [chr(arg)]


def _in(arg: Any, rng: random.Random) -> str:
    negated = str(arg[0][0]) == "NEGATE"
    listed = [c for op, value in arg[negated:] for c in _characters(op, value)]
    return rng.choice([c for c in _PRINTABLE if c not in listed] if negated else listed)


_WRITERS: Mapping[str, Callable[[Any, random.Random], str]] = {
    "LITERAL": lambda arg, _: chr(arg),
    "NOT_LITERAL": lambda arg, rng: rng.choice([c for c in _PRINTABLE if c != chr(arg)]),
    "ANY": lambda _, rng: rng.choice(_PRINTABLE),
    "AT": lambda _, __: "",
    "IN": _in,
    "BRANCH": lambda arg, rng: _all(rng.choice(arg[1]), rng),
    "SUBPATTERN": lambda arg, rng: _all(arg[3], rng),
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
}
