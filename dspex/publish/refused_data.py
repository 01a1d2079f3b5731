"""Data that a reader of Redis refused: counted, and logged without its content.

Any client of Redis can write to its channels and streams, any number of times, so the log has a line at most once a
minute.
"""

from __future__ import annotations

import logging
import time

__all__ = ["RefusedData"]

LOG_SECONDS = 60.0


class RefusedData:
    """Counts what one reader refused. ``source`` is what it reads."""

    def __init__(self, source: str, log: logging.Logger) -> None:
        self.count = 0
        self._source = source
        self._log = log
        self._logged = 0
        self._quiet_until = 0.0

    def note(self, reason: str) -> None:
        """Count a piece of data that was refused for this reason."""
        self.count += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            since = self.count - self._logged
            self._log.warning("refused %s pieces of data in %s, the last for %r", since, self._source, reason)
            self._logged, self._quiet_until = self.count, now + LOG_SECONDS
