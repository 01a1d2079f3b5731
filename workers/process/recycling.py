"""Recycler: a worker that has run much, or holds much memory, makes room for a fresh one."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable

from dspex.errors import ConfigurationError
from workers.process.periodic import Periodic

__all__ = ["ProcessUse", "Recycler", "resident_mb"]

INTERVAL_SECONDS = 1.0

log = logging.getLogger("dspex.workers")


class Recycler(Periodic):
    """Calls ``on_worn`` once, when the process holds ``max_memory_mb`` or has received ``max_executions``.

    A limit that is None is not looked at.
    """

    name = "recycler"

    def __init__(
        self,
        *,
        max_memory_mb: int | None,
        max_executions: int | None,
        received: Callable[[], int],
        on_worn: Callable[[], None],
    ) -> None:
        super().__init__(INTERVAL_SECONDS)
        self._max_memory_mb = max_memory_mb
        self._max_executions = max_executions
        self._received = received
        self._on_worn = on_worn

    def check_limits(self) -> None:
        """Raise ConfigurationError when the process, fresh as it is, holds too much: so would all that replace it."""
        if self._max_memory_mb is not None and (held := resident_mb()) >= self._max_memory_mb:
            raise ConfigurationError(
                f"DSPEX_WORKER_MAX_MEMORY_MB is {self._max_memory_mb}, but a worker of these programs holds {held:.0f} "
                "MB before it runs anything: set it higher"
            )

    def run_once(self) -> float | None:
        if why := self._worn():
            log.warning("%s: this worker finishes what it runs and ends", why)
            self._stop.set()
            self._on_worn()
        return None

    def _worn(self) -> str | None:
        if self._max_executions is not None and (received := self._received()) >= self._max_executions:
            return f"{received} executions were received, of at most {self._max_executions}"
        if self._max_memory_mb is not None and (held := resident_mb()) >= self._max_memory_mb:
            return f"{held:.0f} MB are held, of at most {self._max_memory_mb}"
        return None


class ProcessUse:
    """What part of a core this process uses: since the question before."""

    def __init__(self) -> None:
        self._asked_at, self._cpu_seconds = time.monotonic(), time.process_time()

    def cpu(self) -> float:
        """Above 1 when several threads compute at once."""
        now, used = time.monotonic(), time.process_time()
        share = (used - self._cpu_seconds) / max(now - self._asked_at, 0.001)
        self._asked_at, self._cpu_seconds = now, used
        return round(share, 4)


def resident_mb() -> float:
    """What memory this process holds now; where /proc does not tell, the most it ever held."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
