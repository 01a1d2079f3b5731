"""The watchdog: ends a worker that lives but does no work, so that its supervisor starts another.

Two ways to be so: Celery's consumer goes silent after a reconnect to Redis (celery#8030, #10205), and synchronous
programs that never end hold all the threads there are for them. Both show as a row of bad checks, never as one: a
process that was stopped or starved for a while finds out about itself first. (A blocked loop is the third:
:mod:`workers.process.loop_watch`.)
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
#: kombu waits up to 30 s between two tries to reconnect, and 5 s for each.
RECONNECT_SECONDS = 60.0

log = logging.getLogger("dspex.workers")


class Consumption(Enum):
    """Whether Celery brings executions."""

    ON = "it has its connection"
    LOST = "it is reconnecting"
    OFF = "an operator told it not to (celery control cancel_consumer)"


class Slots(Protocol):
    """What of the executor is looked at: how many executions it holds, of how many it can."""

    @property
    def held(self) -> int: ...

    @property
    def concurrency(self) -> int: ...


class Watchdog(Periodic):
    """Calls ``on_stuck()`` once, after about ``seconds`` of bad checks. A check is bad when

    * messages wait in Redis, slots are free, and nothing was received since the check before, or
    * every thread for synchronous code is held by an execution that is over.

    ``received`` counts the executions received so far. While Celery is reconnecting it is given a minute more; while
    it is told not to consume, and without Redis, there is nothing to wait for.
    """

    name = "watchdog"

    def __init__(
        self,
        broker: Broker,
        slots: Slots,
        threads: SyncThreads,
        *,
        seconds: float,
        received: Callable[[], int],
        consumption: Callable[[], Consumption],
        on_stuck: Callable[[], None],
    ) -> None:
        super().__init__(seconds / CHECKS)
        self._redis = broker.client(socket_timeout=5)
        self._slots = slots
        self._threads = threads
        self._patience = CHECKS + int(RECONNECT_SECONDS / self._interval_seconds)
        self._received = received
        self._consumption = consumption
        self._on_stuck = on_stuck
        self._seen = 0
        self._deaf = 0
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
        self._deaf = self._deaf + 1 if self._is_deaf() else 0
        if self._deaf >= (CHECKS if self._consumption() is Consumption.ON else self._patience):
            log.critical(
                "%s messages wait in Redis and %s slots are free, but nothing was received for %g s",
                self._waiting(), self._slots.concurrency - self._slots.held, self._deaf * self._interval_seconds,
            )  # fmt: skip
            self._give_up()
        return None

    def close(self) -> None:
        self._redis.close()

    def _is_deaf(self) -> bool:
        seen, self._seen = self._seen, self._received()
        idle = seen == self._seen and self._slots.held < self._slots.concurrency
        return idle and self._consumption() is not Consumption.OFF and self._waiting() > 0

    def _waiting(self) -> int:
        try:
            return queue_depth(self._redis)
        except (redis.RedisError, OSError):
            return 0

    def _give_up(self) -> None:
        self._stop.set()
        self._on_stuck()
