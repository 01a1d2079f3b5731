"""Recycling: a worker that has received many executions, or holds much memory, is replaced by a fresh one."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Protocol

from dspex.errors import ConfigurationError
from workers.process.periodic import Periodic

__all__ = ["CpuShare", "Recycler", "resident_mb"]

INTERVAL_SECONDS = 1.0

log = logging.getLogger("dspex.workers")


class Receiver(Protocol):
    """A worker that counts the executions it has received."""

    received: int


class Recycler(Periodic):
    """Calls ``on_due`` once, when the process holds ``max_memory_mb`` or has received ``max_executions``.

    None means no limit.
    """

    name = "recycler"

    def __init__(
        self,
        worker: Receiver,
        *,
        max_memory_mb: int | None,
        max_executions: int | None,
        on_due: Callable[[], None],
    ) -> None:
        super().__init__(INTERVAL_SECONDS)
        self._worker = worker
        self._max_memory_mb = max_memory_mb
        self._max_executions = max_executions
        self._on_due = on_due

    def check_limits(self) -> None:
        """Raise ConfigurationError when a fresh process exceeds the limit already: each replacement would, too."""
        if self._max_memory_mb is not None and (held := resident_mb()) >= self._max_memory_mb:
            raise ConfigurationError(
                f"DSPEX_WORKER_MAX_MEMORY_MB is {self._max_memory_mb}, but a worker of these programs holds {held:.0f} "
                "MB before it runs anything: set it higher"
            )

    def run_once(self) -> float | None:
        if reason := self._exceeded_limit():
            log.warning("%s: this worker finishes what it runs and ends", reason)
            self._stop.set()
            self._on_due()
        return None

    def _exceeded_limit(self) -> str | None:
        received = self._worker.received
        if self._max_executions is not None and received >= self._max_executions:
            return f"{received} executions were received, of at most {self._max_executions}"
        if self._max_memory_mb is not None and (held := resident_mb()) >= self._max_memory_mb:
            return f"{held:.0f} MB are held, of at most {self._max_memory_mb}"
        return None


class CpuShare:
    """How much of one core this process uses."""

    def __init__(self) -> None:
        self._measured_at, self._cpu_seconds = time.monotonic(), time.process_time()

    def since_last_call(self) -> float:
        """The share since the call before; above 1 when several threads compute at once."""
        now, used = time.monotonic(), time.process_time()
        share = (used - self._cpu_seconds) / max(now - self._measured_at, 0.001)
        self._measured_at, self._cpu_seconds = now, used
        return round(share, 4)


def resident_mb() -> float:
    """The memory that this process holds now; without /proc, the most that it ever held."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
