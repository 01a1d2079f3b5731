"""How long a provider asks to wait before the next request."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["asked_delay", "sensible_delay"]

#: More seconds than this are a moment: seconds, or milliseconds, since 1970. It is three years.
_MOMENT = 1e8
_MILLISECONDS = 1e11


def asked_delay(headers: Iterable[tuple[str, str]]) -> float | None:
    """The delay in seconds by the headers of a reply; None if they name none, or one that makes no sense."""
    found = {name.lower(): value.strip() for name, value in headers}
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (milliseconds := _number(found.get(name))) is not None:
            return sensible_delay(milliseconds / 1000)
    value = found.get("retry-after")
    seconds = _number(value)
    return _until(value) if seconds is None else sensible_delay(seconds)


def sensible_delay(value: object) -> float | None:
    """A delay in seconds. A moment is taken for the time until then; None for what is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    if value < _MOMENT:
        return float(value)
    delay = (value / 1000 if value > _MILLISECONDS else value) - time.time()
    return delay if 0 <= delay < _MOMENT else None


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _until(value: str | None) -> float | None:
    """The time until an HTTP date; none if it has passed."""
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, IndexError, OverflowError):
        return None
    delay = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()
    return delay if 0 <= delay < _MOMENT else None
