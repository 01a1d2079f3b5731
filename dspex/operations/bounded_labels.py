"""Labels of metrics, bounded: a series costs memory in this process, and far more where it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["OTHER", "Bounded"]

#: The label of all names past the bound.
OTHER = "other"
T = TypeVar("T")


class Bounded(dict[str, T]):
    """A value for each of the first ``most`` names; all later names share the value of "other"."""

    def __init__(self, most: int, make: Callable[[str], T]) -> None:
        super().__init__()
        self._most = most
        self._make = make

    def __missing__(self, name: str) -> T:
        label = name if len(self) < self._most else OTHER
        if label == OTHER and OTHER in self:
            return self[OTHER]
        made = self[label] = self._make(label)
        return made
