"""Amounts of money as text. An unknown cost is never printed as nothing, and a small one is never rounded to it."""

from __future__ import annotations

import math

__all__ = ["dollars"]

#: The digits that an amount below one cent is rounded to.
DIGITS = 2


def dollars(cost: float | None, unpriced: int = 0) -> str:
    """A cost as text; ``unpriced`` is how many calls or executions have an unknown cost beside it."""
    if cost is None or (unpriced and not cost):
        return "unknown"
    return f"at least {_amount(cost)}" if unpriced else _amount(cost)


def _amount(cost: float) -> str:
    if not cost:
        return "$0"
    if cost >= 1:
        return f"${cost:,.2f}"
    decimals = max(4, DIGITS - 1 - math.floor(math.log10(cost)))
    return f"${cost:.{decimals}f}"
