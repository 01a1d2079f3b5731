"""Everything of a worker that runs executions, on the loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.settings.failpoints import AFTER_HAND_BACK, failpoint
from workers.adapters import Adapters
from workers.adapters.unrunnable import UnrunnablePrograms
from workers.attempt.executor import Executor
from workers.attempt.host import Host
from workers.attempt.ledger import Ledger
from workers.attempt.slots import FairSlots
from workers.attempt.stream import Streams
from workers.attempt.waiting.children import Children
from workers.consume.cancellation import Cancellation
from workers.consume.refusal_counts import RefusalCounts
from workers.lm.limits.buckets import Buckets
from workers.lm.limits.budget import Budgets
from workers.lm.limits.permits import Permits
from workers.process.loop_thread import LoopThread, OnLoop
from workers.process.services import Service
from workers.process.worker_state import WorkerState

__all__ = ["Drain", "ExecutionServices"]

log = logging.getLogger("dspex.workers")


class ExecutionServices:
    """The executor and what it uses; ``services`` is their order."""

    def __init__(self, settings: Settings, worker: WorkerState, loop: LoopThread, *, concurrency: int) -> None:
        backends = settings.backends()
        self.unrunnable = unrunnable = UnrunnablePrograms()
        self.ledger = ledger = Ledger(backends.database_url, backends.broker_url, worker.current_id, unrunnable)
        budgets = Budgets(backends.database_url, worker.current_id)
        permits = Permits(Buckets(backends.broker_url), budgets, settings.model_limits)
        adapters = Adapters()
        streams = Streams(backends.broker_url)
        slots = FairSlots(concurrency, throttled=permits.throttled)
        permits.on_freed(slots.wake)
        self.refusals = RefusalCounts(ledger)
        sealing = Sealing.of(settings)
        self.host = Host(ledger, adapters, permits, sealing, unrunnable, Children(ledger, sealing, settings))
        self.executor = Executor(
            ledger, self.host, streams, slots, self.refusals, unrunnable, grace_seconds=settings.grace_seconds
        )
        cancellation = Cancellation(ledger, self.executor, self.refusals, backends.broker_url)
        self.services: Sequence[Service] = (
            OnLoop(loop, close=ledger.close),
            OnLoop(loop, self.refusals.start, self.refusals.close),
            OnLoop(loop, streams.start, streams.close),
            OnLoop(loop, close=budgets.close),
            OnLoop(loop, permits.start, permits.close),
            OnLoop(loop, close=adapters.close),
            OnLoop(loop, self.host.start, self.host.close),
            OnLoop(loop, cancellation.start, cancellation.close),
        )


class Drain:
    """A service: its stop lets running attempts finish within the grace period, then hands back the others."""

    def __init__(self, loop: LoopThread, executor: Executor, *, grace_seconds: float) -> None:
        self._loop = loop
        self._executor = executor
        self._grace_seconds = self._seconds = grace_seconds

    def start(self) -> None:
        """Nothing: it is there for its stop."""

    def allow_all_time(self) -> None:
        """Let running attempts take as long as their deadlines allow, unless :meth:`hurry` shortens that."""
        self._seconds = math.inf

    def hurry(self, seconds: float | None = None) -> None:
        """Allow at most ``seconds``, by default the grace period, from now or from the stop on.

        Safe in a signal handler.
        """
        if seconds is None:
            seconds = self._grace_seconds
        self._seconds = min(self._seconds, seconds)
        self._loop.call_soon(self._executor.hurry, seconds)

    def stop(self) -> None:
        grace = "as long as they need" if math.isinf(self._seconds) else f"{self._seconds:g} s"
        log.info("stopping: %s executions are running, they have %s to finish", self._executor.running, grace)
        self._loop.run(self._executor.drain(self._seconds))
        failpoint(AFTER_HAND_BACK)
