"""The delays between the restarts of one process, for the stack's monitor and for a worker's fleet."""

from __future__ import annotations

__all__ = ["LONGEST_DELAY_SECONDS", "STEADY_SECONDS", "Restarts"]

LONGEST_DELAY_SECONDS = 30.0
#: A process that was ready for this long did not end for the reason that its predecessor ended for.
STEADY_SECONDS = 60.0


class Restarts:
    """The delay before each restart is twice the one before, up to 30 s; it begins anew after a minute of running."""

    def __init__(self, *, first_delay_seconds: float) -> None:
        self._first_delay_seconds = first_delay_seconds
        self._failures = 0

    def next_delay(self, *, ready_seconds: float) -> float:
        """The seconds to wait before the next start, after a process that was ready for ``ready_seconds`` ended."""
        self._failures = 1 if ready_seconds >= STEADY_SECONDS else self._failures + 1
        return min(self._first_delay_seconds * 2.0 ** (self._failures - 1), LONGEST_DELAY_SECONDS)
