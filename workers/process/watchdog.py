"""The watchdog: ends a worker that is alive but does no work, so that its supervisor starts another.

There are two causes. Celery's consumer may stop consuming after a reconnect to Redis (celery#8030, #10205), and
synchronous programs that never end may hold all the threads for synchronous code. Only several bad checks in a row
count: a process that was stopped or starved for a while may recover by itself. A third cause, a blocked loop, is
found by :mod:`workers.process.loop_watch`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import redis

from dspex.publish.broker import Broker, queue_depth
from workers.attempt.sync_threads import SyncThreads
from workers.process.periodic import Periodic

__all__ = ["Consumption", "Watchdog"]

#: How many checks in a row must be bad.
CHECKS = 10
#: kombu waits up to 30 s between two attempts to reconnect, and 5 s for each.
RECONNECT_SECONDS = 60.0

log = logging.getLogger("dspex.workers")


class Consumption(Enum):
    """Whether Celery consumes messages."""

    ON = "it has its connection"
    LOST = "it is reconnecting"
    REFUSED = "Redis refuses its commands"
    OFF = "an operator stopped its consumer (celery control cancel_consumer)"


class MessageCounts(Protocol):
    """How many executions a worker has received so far, and how many messages it has refused."""

    received: int
    refused: int


class Slots(Protocol):
    """How many executions an executor holds, and how many it can run at once."""

    @property
    def held(self) -> int: ...

    @property
    def concurrency(self) -> int: ...


class Watchdog(Periodic):
    """Calls ``on_stuck()`` once, after about ``seconds`` of bad checks. A check is bad when

    * messages wait in Redis, slots are free, and nothing was received since the check before, or
    * every thread for synchronous code is held by an execution that is over.

    Celery may take a minute longer while it reconnects. While an operator has stopped its consumer, or Redis is out of
    reach or refuses its commands, no check of messages is bad.
    """

    name = "watchdog"

    def __init__(
        self,
        broker: Broker,
        intake: MessageCounts,
        slots: Slots,
        threads: SyncThreads,
        consumption: Callable[[], Consumption],
        *,
        seconds: float,
        on_stuck: Callable[[], None],
    ) -> None:
        super().__init__(seconds / CHECKS)
        self._redis = broker.client(socket_timeout=5)
        self._intake = intake
        self._slots = slots
        self._threads = threads
        self._checks_while_reconnecting = CHECKS + int(RECONNECT_SECONDS / self._interval_seconds)
        self._consumption = consumption
        self._on_stuck = on_stuck
        self._seen = 0
        self._silent = 0
        self._exhausted = 0

    def run_once(self) -> float | None:
        self._exhausted = self._exhausted + 1 if self._threads.exhausted else 0
        if self._exhausted >= CHECKS:
            log.critical(
                "all %s threads for synchronous code have been lost for %g s to: %s",
                self._threads.most, CHECKS * self._interval_seconds, "; ".join(self._threads.strays),
            )  # fmt: skip
            self._give_up()
            return None
        self._silent = self._silent + 1 if self._is_silent() else 0
        consumes = self._consumption() is Consumption.ON
        if self._silent >= (CHECKS if consumes else self._checks_while_reconnecting):
            log.critical(
                "%s messages wait in Redis and %s slots are free, but nothing was received for %g s",
                self._waiting(), self._slots.concurrency - self._slots.held, self._silent * self._interval_seconds,
            )  # fmt: skip
            self._give_up()
        return None

    def stop(self) -> None:
        super().stop()
        self._redis.close()

    def _is_silent(self) -> bool:
        """Whether messages wait and slots are free, but none was received since the check before."""
        seen, self._seen = self._seen, self._intake.received + self._intake.refused
        idle = seen == self._seen and self._slots.held < self._slots.concurrency
        waits = self._consumption() in (Consumption.OFF, Consumption.REFUSED)
        return idle and not waits and self._waiting() > 0

    def _waiting(self) -> int:
        try:
            return queue_depth(self._redis)
        except (redis.RedisError, OSError):
            return 0

    def _give_up(self) -> None:
        self._stop.set()
        self._on_stuck()
