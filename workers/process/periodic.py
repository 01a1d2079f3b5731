"""A periodic service: ``run_once()`` at intervals, in its own thread."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod

from sqlalchemy.exc import SQLAlchemyError

from dspex.errors import BackendUnavailable, ConfigurationError, SchemaOutdated
from workers.observe.metrics import BACKEND_FAILURES

__all__ = ["Periodic"]

log = logging.getLogger("dspex.workers")

#: What a backend or the rights of its user refuse: it may be corrected. Any other error is a bug, and ends the worker.
_REFUSED = (BackendUnavailable, ConfigurationError, SchemaOutdated, SQLAlchemyError)


#: The least pause between two runs, so that a service may be woken often.
WOKEN_SECONDS = 0.02


class Periodic(ABC):
    """Runs ``run_once`` every ``interval_seconds`` until it is stopped, also while a backend is out of reach or refuses
    it."""

    name: str

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._run, name=f"dspex-{self.name}", daemon=True)

    @abstractmethod
    def run_once(self) -> float | None:
        """Do the work once. Returns the seconds until the next run, or None for the usual interval."""

    def on_failure(self, error: Exception) -> None:
        """Called after each failed run; does nothing by default."""
        return

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the run that is under way."""
        self._stop.set()
        self._woken.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def wake(self) -> None:
        """Have the next run follow now, or in a moment. From any thread."""
        self._woken.set()

    def _next_is_due(self, pause: float) -> bool:
        """Wait for the next run, or until woken. False once the service is stopped."""
        began = time.monotonic()
        if self._woken.wait(pause):
            self._woken.clear()
            self._stop.wait(min(pause, WOKEN_SECONDS) - (time.monotonic() - began))
        return not self._stop.is_set()

    def _run(self) -> None:
        pause: float | None = 0.0
        while self._next_is_due(self._interval_seconds if pause is None else pause):
            try:
                pause = self.run_once()
                if self._away:
                    log.warning("%s: back", self.name)
                self._away = False
            except _REFUSED as error:
                pause = None
                BACKEND_FAILURES.labels(_backend(error)).inc()
                if not self._away:
                    log.warning("%s: %s", self.name, error)
                self._away = True
                self.on_failure(error)


def _backend(error: Exception) -> str:
    return str(error.details.get("backend", "postgres")) if isinstance(error, BackendUnavailable) else "postgres"
