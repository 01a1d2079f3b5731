"""The loop's watch: reports which code blocks the worker's loop, where, and for how long.

A program that blocks the loop (a synchronous call in a coroutine, a long computation) delays all the others. The lease
is renewed from another thread, so no other worker recovers them meanwhile; this watch ends a worker whose loop stays
blocked.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from itertools import islice

from workers.observe.metrics import LOOP_BLOCKED
from workers.process.periodic import Periodic

__all__ = ["LoopWatch"]

INTERVAL_SECONDS = 0.5
#: A loop that is blocked for this long is reported, and again each time the time has doubled.
REPORT_SECONDS = 1.0
#: How many calls of the blocking stack are reported, the innermost first.
FRAMES = 8

log = logging.getLogger("dspex.workers")


class LoopWatch(Periodic):
    """Checks every half second that the loop turns; calls ``on_stuck`` once when it has not for ``give_up_seconds``.

    It counts its own checks, not the time: a process that was stopped for a minute has not been blocked for a minute.
    """

    name = "loop-watch"

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, give_up_seconds: float, on_stuck: Callable[[], None]
    ) -> None:
        super().__init__(INTERVAL_SECONDS)
        self._loop = loop
        self._thread_id: int | None = None
        self._give_up_seconds = give_up_seconds
        self._on_stuck = on_stuck
        self._turned = threading.Event()
        self._asked_at = self._lag = 0.0
        self._checks = 0
        self._report_at = REPORT_SECONDS
        self._trouble: str | None = None
        self._ask()

    @property
    def trouble(self) -> str | None:
        """Which code blocks the loop, where, and since when; None while the loop turns."""
        return self._trouble

    @property
    def blocked_seconds(self) -> float:
        """For how long the loop has been blocked, by the count of checks; 0 while it turns."""
        return self._checks * INTERVAL_SECONDS

    @property
    def lag_seconds(self) -> float:
        """How long the loop took to answer the last check, or how long it has not answered: the longer one."""
        return self._lag if self._turned.is_set() else max(self._lag, time.monotonic() - self._asked_at)

    def run_once(self) -> float | None:
        if self._turned.is_set():
            self._note_turn()
            self._ask()
            return None
        self._checks += 1
        LOOP_BLOCKED.inc(INTERVAL_SECONDS)
        seconds = self.blocked_seconds
        if seconds < self._report_at:
            return None
        self._trouble = f"the loop is blocked for {seconds:g} s by {self._culprit()}"
        if seconds >= self._give_up_seconds:
            log.critical("%s: this worker ends", self._trouble)
            self._stop.set()
            self._on_stuck()
            return None
        log.warning("%s", self._trouble)
        self._report_at *= 2
        return None

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        self._turned.clear()
        self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._thread_id = threading.get_ident()
        self._lag = time.monotonic() - self._asked_at
        self._turned.set()

    def _note_turn(self) -> None:
        if self._trouble is not None:
            log.warning("the loop turns again, after %g s", self._checks * INTERVAL_SECONDS)
        self._checks, self._report_at, self._trouble = 0, REPORT_SECONDS, None

    def _culprit(self) -> str:
        """The execution and its program, and the place: files, lines and functions, never values."""
        task = asyncio.current_task(self._loop)
        whose = "no task" if task is None else task.get_name()
        frame = sys._current_frames().get(self._thread_id or 0)
        if frame is None:
            return whose
        calls = [
            f"{each.f_code.co_filename}:{line} {each.f_code.co_qualname}"
            for each, line in islice(traceback.walk_stack(frame), FRAMES)
            if not each.f_globals.get("__name__", "").startswith("asyncio.")
        ]
        return f"{whose}, in {' < '.join(calls)}"
