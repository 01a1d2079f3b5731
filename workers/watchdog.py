"""The watchdog: ends a worker that lives but does no work, so that its supervisor starts another.

Two ways to be so were seen: Celery's consumer goes silent after a reconnect to Redis (celery#8030, #10205), and a
program blocks the asyncio loop. Both show as a row of bad checks, never as one: a process that was stopped or
starved for a while finds out about itself first.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Protocol

import redis

from dspex.broker import Broker, queue_keys
from workers.periodic import Periodic

__all__ = ["Watchdog"]

#: How many checks in a row must be bad.
CHECKS = 10
#: kombu waits up to 30 s between two tries to reconnect, and 5 s for each.
RECONNECT_SECONDS = 60.0

log = logging.getLogger("dspex.workers")


class Slots(Protocol):
    """What of the executor is looked at: how many executions it holds, of how many it can."""

    @property
    def held(self) -> int: ...

    @property
    def concurrency(self) -> int: ...


class Watchdog(Periodic):
    """Calls ``on_stuck(loop_turns)`` once, after about ``seconds`` of bad checks. A check is bad when

    * messages wait in Redis, slots are free, and nothing was received since the check before, or
    * the loop has not turned since the check before.

    ``received`` counts the executions received so far. ``consuming`` says whether Celery has its connection: while
    it is reconnecting it is given a minute more. Without Redis there is nothing to wait for.
    """

    name = "watchdog"

    def __init__(
        self,
        broker: Broker,
        loop: asyncio.AbstractEventLoop,
        slots: Slots,
        *,
        seconds: float,
        received: Callable[[], int],
        consuming: Callable[[], bool],
        on_stuck: Callable[[bool], None],
    ) -> None:
        super().__init__(seconds / CHECKS)
        self._redis = broker.client(socket_timeout=5)
        self._loop = loop
        self._slots = slots
        self._patience = CHECKS + int(RECONNECT_SECONDS / self._interval_seconds)
        self._received = received
        self._consuming = consuming
        self._on_stuck = on_stuck
        self._seen = 0
        self._deaf = 0
        self._blocked = 0
        self._turned = threading.Event()
        self._turned.set()

    def run_once(self) -> float | None:
        self._blocked = 0 if self._turned.is_set() else self._blocked + 1
        if self._blocked >= CHECKS:
            log.critical("the loop has been blocked for %g s by:\n%s", CHECKS * self._interval_seconds, _stacks())
            self._give_up(loop_turns=False)
            return None
        if self._turned.is_set():
            self._turned.clear()
            self._loop.call_soon_threadsafe(self._turned.set)
        self._deaf = self._deaf + 1 if self._is_deaf() else 0
        if self._deaf >= (CHECKS if self._consuming() else self._patience):
            log.critical(
                "%s messages wait in Redis and %s slots are free, but nothing was received for %g s",
                self._waiting(), self._slots.concurrency - self._slots.held, self._deaf * self._interval_seconds,
            )  # fmt: skip
            self._give_up(loop_turns=True)
        return None

    def close(self) -> None:
        self._redis.close()

    def _is_deaf(self) -> bool:
        seen, self._seen = self._seen, self._received()
        return seen == self._seen and self._slots.held < self._slots.concurrency and self._waiting() > 0

    def _waiting(self) -> int:
        try:
            return sum(int(self._redis.llen(key)) for key in queue_keys())
        except (redis.RedisError, OSError):
            return 0

    def _give_up(self, *, loop_turns: bool) -> None:
        self._stop.set()
        self._on_stuck(loop_turns)


def _stacks() -> str:
    """What the loop's thread is doing: where, never with which values."""
    frames = sys._current_frames()
    loops = [thread for thread in threading.enumerate() if thread.name == "dspex-loop"]
    return "".join("".join(traceback.format_stack(frames[thread.ident])) for thread in loops if thread.ident in frames)
