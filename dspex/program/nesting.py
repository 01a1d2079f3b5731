"""The nesting depth of lists and mappings, counted without recursion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dspex.errors import FieldError

__all__ = ["depth_fault", "inside", "is_deeper"]


def depth_fault(path: str, most: int, setting: str = "") -> FieldError:
    """The fault of a value nested deeper than ``most``, the limit of ``setting``."""
    where = f" ({setting})" if setting else ""
    return FieldError(path, f"at most {most} lists and mappings inside each other{where}", "more", "max_depth")


def is_deeper(values: object, most: int) -> bool:
    """Whether lists and mappings are nested deeper than ``most``; the outermost counts."""
    level = [values]
    for _ in range(most):
        level = [item for value in level for item in inside(value) if isinstance(item, Mapping | list | tuple)]
        if not level:
            return False
    return True


def inside(value: object) -> Iterator[Any]:
    """The values of a mapping or a list; none for any other object."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
