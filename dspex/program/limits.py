"""Limits: how much a program, or a model's endpoint, may do at once and over time, across the whole fleet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dspex.errors import FieldError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what all workers together may use; ``None`` is no limit.

    ``concurrency``         executions that run at once
    ``per_minute``          executions that begin within a minute
    ``tokens_per_minute``   prompt and completion tokens of model calls within a minute
    ``max_cost_usd``        the total cost of model calls in US dollars: reserved before each call, settled after
                            it; a call that would exceed it is not made, and the program is paused
    """

    concurrency: int | None = None
    per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_cost_usd: float | None = None

    def faults(self) -> Iterator[FieldError]:
        for name in ("concurrency", "per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                yield FieldError(f"limits.{name}", "a positive integer", repr(value))
        cost = self.max_cost_usd
        if cost is not None and (
            not isinstance(cost, int | float) or isinstance(cost, bool) or not math.isfinite(cost) or cost <= 0
        ):
            yield FieldError("limits.max_cost_usd", "US dollars, more than 0", repr(cost))
