"""Figures: what a workload measured, how often, and what it was to be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dspex.operations.bench.load import percentile

__all__ = ["Figure", "Goal", "alternate", "at_least", "at_most", "percentile", "ratio"]


@dataclass(frozen=True, slots=True)
class Goal:
    """The bound that a figure's median is to keep."""

    bound: float
    is_floor: bool

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.is_floor else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.is_floor else '≤'} {self.bound:g}"


def at_least(bound: float) -> Goal:
    return Goal(bound, is_floor=True)


def at_most(bound: float) -> Goal:
    return Goal(bound, is_floor=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """``values`` are those of the repeats, in ``unit``; ``system`` is whose they are."""

    name: str
    system: str
    unit: str
    values: Sequence[float]
    goal: Goal | None = None
    note: str = ""
    #: Where on the horizontal axis of a plot the figure stands, if it is one of a series.
    at: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else math.nan

    @property
    def met(self) -> bool | None:
        """None without a goal."""
        return None if self.goal is None else self.goal.met_by(self.median)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "system": self.system,
            "unit": self.unit,
            "median": self.median,
            "values": list(self.values),
            "goal": None if self.goal is None else str(self.goal),
            "met": self.met,
            **({"note": self.note} if self.note else {}),
            **({} if self.at is None else {"at": self.at}),
        }


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], goal: Goal | None = None) -> Figure:
    """Ours over theirs, repeat by repeat: what was measured side by side."""
    return Figure(name, "DSPex", "×", [a / b for a, b in zip(ours, theirs, strict=True)], goal)


def alternate(
    contenders: dict[str, Callable[[], float]], repeats: int, told: Callable[[str], None]
) -> dict[str, list[float]]:
    """Measure each contender in turn, ``repeats`` times; every second time in the opposite order."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repeats):
        order = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in order:
            value = contenders[name]()
            found[name].append(value)
            told(f"{name}: {value:,.4g}")
    return found
