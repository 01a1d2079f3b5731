"""A worker's answers to probes. No answer waits for anything, whatever part of the worker hangs.

``live`` fails only where a restart helps: the loop is blocked. A lease that cannot be renewed means that Postgres is
out of reach, which a restart of every worker would not change: such a worker is live, and not ``ready``.
"""

from __future__ import annotations

from collections.abc import Callable

from workers.attempt.executor import Executor
from workers.attempt.sync_threads import SyncThreads
from workers.observe import metrics
from workers.process.lease import Lease
from workers.process.loop_watch import LoopWatch
from workers.process.watchdog import Consumption
from workers.process.worker_state import WorkerState

__all__ = ["Probes"]


class Probes:
    """The answers, and the metrics that are read at the moment they are asked for."""

    def __init__(
        self,
        worker: WorkerState,
        executor: Executor,
        lease: Lease,
        loop_watch: LoopWatch,
        threads: SyncThreads,
        consumption: Callable[[], Consumption],
        *,
        hung_seconds: float,
    ) -> None:
        self._worker = worker
        self._lease = lease
        self._loop_watch = loop_watch
        self._consumption = consumption
        self._hung_seconds = hung_seconds
        metrics.RUNNING.set_function(lambda: executor.running)
        metrics.HELD.set_function(lambda: executor.held)
        metrics.CONCURRENCY.set_function(lambda: executor.concurrency)
        metrics.LOOP_LAG.set_function(lambda: loop_watch.lag_seconds)
        metrics.LEASE_AGE.set_function(lambda: lease.age_seconds)
        metrics.READY.set_function(lambda: self.why_not_ready() is None)
        metrics.THREADS.labels("busy").set_function(lambda: threads.busy)
        metrics.THREADS.labels("waiting").set_function(lambda: threads.waiting)
        metrics.THREADS.labels("lost").set_function(lambda: len(threads.strays))

    def why_not_live(self) -> str | None:
        """Why this process should be restarted; None while it should not."""
        if self._loop_watch.blocked_seconds >= self._hung_seconds:
            return self._loop_watch.trouble
        return None

    def why_not_ready(self) -> str | None:
        """Why no execution begins here at present; None while executions begin."""
        if self._worker.phase != "running":
            return f"it is {self._worker.phase}"
        if not self._lease.held:
            return f"its lease was last renewed {self._lease.age_seconds:.1f} s ago: does Postgres answer?"
        if (consumption := self._consumption()) is not Consumption.ON:
            return f"it does not consume from the queue: {consumption.value}"
        return self._loop_watch.trouble
