"""What Redis refuses this worker at the moment, by the part of the worker that needs it."""

from __future__ import annotations

import logging

from dspex.publish.redis_refusals import refusal_fix, refusal_text
from workers.observe.metrics import BACKEND_FAILURES

__all__ = ["REDIS_TROUBLE", "RedisTrouble"]

log = logging.getLogger("dspex.workers")


class RedisTrouble:
    """Shown as the worker's trouble in `dspex workers` and in health. Safe to share between threads."""

    def __init__(self) -> None:
        self._refused: dict[str, str] = {}

    @property
    def text(self) -> str | None:
        """The refusals and how to fix them; None if there are none."""
        return "; ".join(f"Redis refuses {part}: {text}" for part, text in sorted(self._refused.items())) or None

    def refuses(self, *parts: str) -> bool:
        """Whether Redis refuses what one of these parts of the worker asks for."""
        return not self._refused.keys().isdisjoint(parts)

    def note(self, part: str, error: Exception) -> None:
        """Redis refused what this part of the worker asked for. It is logged when it is news."""
        BACKEND_FAILURES.labels("redis").inc()
        text = f"{refusal_text(error)} ({refusal_fix(error)})"
        if self._refused.get(part) != text:
            log.error("Redis refuses %s, the worker goes on and asks again: %s", part, text)
        self._refused[part] = text

    def clear(self, part: str) -> None:
        """Redis does what this part asks for."""
        if self._refused.pop(part, None) is not None:
            log.warning("Redis does not refuse %s any more", part)


#: Of this process: kombu makes its channels by itself.
REDIS_TROUBLE = RedisTrouble()
