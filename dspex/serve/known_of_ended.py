"""What was read of batches and evaluations that have ended: it changes only where their executions are retried."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["KnownOfEnded", "forget_known"]

#: It is read again after so long. So many values are kept.
KNOWN_SECONDS, MOST_KNOWN = 60.0, 200
_all: list[KnownOfEnded] = []


def forget_known() -> None:
    """Forget everything: executions were retried here. What other processes retry is seen after KNOWN_SECONDS."""
    for each in _all:
        each.forget()


class KnownOfEnded:
    """Values by key, each for a while."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[float, Any]] = {}
        _all.append(self)

    def get(self, *key: object) -> Any:
        """The value; None when it is unknown, or too old."""
        at, found = self._known.get(key, (0.0, None))
        return found if time.monotonic() - at < KNOWN_SECONDS else None

    def forget(self) -> None:
        """Keep nothing of what is known."""
        self._known.clear()

    def keep(self, value: Any, *key: object) -> None:
        """Keep a value."""
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[key] = time.monotonic(), value
