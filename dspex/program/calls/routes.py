"""Routes: how model calls reach a provider: at once, through its batch API, or at its slower and cheaper tier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from dspex.errors import FieldError

__all__ = ["DEFAULT_WITHIN", "OTHERWISE", "ROUTES", "CallsRoute", "read_span", "route_faults"]

#: ``standard``: an ordinary call. ``batch``: the provider's batch API, for half the price within hours. ``flex``: the
#: provider's slower tier of the ordinary API, where it has one.
ROUTES = ("standard", "batch", "flex")
#: What becomes of a call that the provider does not answer in time: an ordinary call, or an error.
OTHERWISE = ("standard", "fail")
#: The providers' own limit.
DEFAULT_WITHIN = "24h"
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_SECONDS = 14 * 86_400


@dataclass(frozen=True, slots=True)
class CallsRoute:
    """How the model calls of an execution are made. ``within_seconds`` and ``otherwise`` are for batches."""

    kind: str = "standard"
    within_seconds: float = 86_400.0
    otherwise: str = "standard"

    def __str__(self) -> str:
        """As it is stored with an execution."""
        return f"{self.kind} {self.within_seconds:g} {self.otherwise}"

    @classmethod
    def read(cls, stored: str) -> Self:
        """A stored route."""
        kind, within, otherwise = stored.split()
        return cls(kind, float(within), otherwise)


def read_span(given: Any) -> float | None:
    """Seconds from a number of seconds, or from a text such as ``"24h"``; None for anything else."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    found = _SPAN.fullmatch(given.strip()) if isinstance(given, str) else None
    return float(found[1]) * _UNITS[found[2]] if found else None


def route_faults(route: Any, within: Any, otherwise: Any) -> Iterator[FieldError]:
    """The faults of a route as a user gives it."""
    if route not in ROUTES:
        yield FieldError("route", f"one of {', '.join(ROUTES)}", repr(route)[:80])
    seconds = read_span(within)
    if seconds is None or not 0 < seconds <= LONGEST_SECONDS:
        yield FieldError("within", 'a time such as "24h", at most 14 days', repr(within)[:80])
    if otherwise not in OTHERWISE:
        yield FieldError("otherwise", f"one of {', '.join(OTHERWISE)}", repr(otherwise)[:80])
