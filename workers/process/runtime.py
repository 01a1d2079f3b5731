"""A worker process's own machinery: the asyncio loop in its thread, and the services around it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any
from uuid import UUID

import uvloop

from dspex.errors import BackendUnavailable
from dspex.publish.broker import Broker
from dspex.publish.channels import CANCEL_CHANNEL, DONE_CHANNEL
from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.settings.failpoints import AFTER_HAND_BACK, arm, failpoint
from dspex.store import migrate, programs
from dspex.store.database import Database
from dspex.store.lifecycle import control
from dspex.store.workers import Vitals
from workers.adapters import Adapters
from workers.attempt import sync_threads
from workers.attempt.current import new_task
from workers.attempt.executor import Executor, OnEnd, OnStart, Received
from workers.attempt.host import Host
from workers.attempt.ledger import Ledger
from workers.attempt.slots import FairSlots
from workers.attempt.stream import Streams
from workers.consume.refusal_counts import RefusalCounts
from workers.lm.limits.buckets import Buckets
from workers.lm.limits.budget import Budgets
from workers.lm.limits.permits import Permits
from workers.observe import tracing
from workers.observe.metrics import RECEIVED
from workers.observe.probe_server import ProbeServer
from workers.observe.probes import Probes
from workers.process import fleet_pipe
from workers.consume.cancellation import Cancellation
from workers.process.lease import Lease
from workers.process.loop_watch import LoopWatch
from workers.process.malloc import freeze_and_trim
from workers.process.pump import Pump
from workers.process.recycling import ProcessUse, Recycler, resident_mb
from workers.process.watchdog import Consumption, Watchdog

__all__ = ["Runtime"]

log = logging.getLogger("dspex.workers")

#: The exit code of a worker that its watchdog ended (EX_SOFTWARE of sysexits.h).
EXIT_STUCK = 70
#: What it takes at most to end, beyond the grace period.
GIVE_UP_SECONDS = 30.0
#: What sending the last spans takes at most.
LAST_SPANS_SECONDS = 5.0


class Runtime:
    """Everything of a worker but Celery. ``start()`` returns when it may claim.

    ``consumption`` tells whether Celery brings messages just now. ``on_worn`` is called once, when the process should
    make room for a fresh one: then :meth:`stop` waits for all that runs, unless :meth:`hurry` shortens that.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        concurrency: int,
        consumption: Callable[[], Consumption],
        on_worn: Callable[[], None],
    ) -> None:
        arm(settings.failpoints)
        backends = settings.backends()
        self._settings = settings
        # Heartbeats never wait for the pump's statements.
        self._lease_database = Database(backends.database_url, pool_size=1, application_name="dspex worker lease")
        self._pump_database = Database(backends.database_url, pool_size=1, application_name="dspex worker pump")
        self._broker = Broker(backends.broker_url, pool_size=1)
        self._loop = uvloop.new_event_loop()
        self._loop.set_task_factory(new_task)
        self._sync_threads = sync_threads.SyncThreads(settings.worker_threads)
        self._thread = threading.Thread(target=self._turn, name="dspex-loop", daemon=True)
        self._lease = Lease(
            self._lease_database,
            lease_seconds=settings.lease_seconds,
            vitals=self._vitals,
            on_lost=self._abandon,
        )
        self._pump = Pump(
            self._pump_database, self._broker, lambda: self._lease.worker_id, lease_seconds=settings.lease_seconds
        )
        self._adapters = Adapters()
        self._ledger = Ledger(backends.database_url, backends.broker_url, lambda: self._lease.worker_id)
        self._budgets = Budgets(backends.database_url, lambda: self._lease.worker_id)
        self._permits = Permits(Buckets(backends.broker_url), self._budgets, settings.model_limits)
        self._host = Host(self._ledger, self._adapters, self._permits, Sealing.of(settings))
        self._streams = Streams(backends.broker_url)
        self._refusals = RefusalCounts(self._ledger)
        slots = FairSlots(concurrency, throttled=self._permits.throttled)
        self._permits.on_freed = slots.wake
        self._executor = Executor(self._ledger, self._host, self._streams, slots, self._refusals)
        self._cancellation = Cancellation(self._ledger, self._executor, backends.broker_url)
        self._received = 0
        self._loop_watch = LoopWatch(
            self._loop, give_up_seconds=settings.watchdog_seconds, on_stuck=partial(self._give_up, loop_turns=False)
        )
        self._watchdog = Watchdog(
            self._broker,
            self._executor,
            self._sync_threads,
            seconds=settings.watchdog_seconds,
            received=lambda: self._received,
            consumption=consumption,
            on_stuck=partial(self._give_up, loop_turns=True),
        )
        self._recycler = Recycler(
            max_memory_mb=settings.worker_max_memory_mb,
            max_executions=settings.worker_max_executions,
            received=lambda: self._received,
            on_worn=partial(self._retire, on_worn),
        )
        probes = Probes(
            executor=self._executor,
            lease=self._lease,
            loop_watch=self._loop_watch,
            threads=self._sync_threads,
            consumption=consumption,
            state=lambda: self._state,
            hung_seconds=settings.watchdog_seconds / 2,
        )
        self._http = ProbeServer(settings, probes)
        self._grace_seconds = settings.grace_seconds
        self._use = ProcessUse()
        # A signal handler may stop again what is being stopped: by the same thread.
        self._stopping = threading.RLock()
        self._state = "starting"

    @property
    def worker_id(self) -> UUID:
        return self._lease.worker_id

    @property
    def running(self) -> int:
        return self._executor.running

    def info(self) -> dict[str, Any]:
        """What an operator may want to know, by name; JSON-friendly."""
        return {
            "worker-id": str(self.worker_id),
            "state": self._state,
            "running": self.running,
            "received": self._received,
            "refused": self._refusals.counts,
            "threads": {
                "most": self._sync_threads.most,
                "busy": self._sync_threads.busy,
                "waiting": self._sync_threads.waiting,
                "lost": self._sync_threads.strays,
            },
            "trouble": self._trouble(),
        }

    def start(self) -> None:
        """Check the schema, register, and begin. Raises SchemaOutdated, BackendUnavailable, ConfigurationError."""
        self._http.start()
        self._lease_database.run(migrate.check)
        tracing.start()
        threading.excepthook = _end_the_process
        sync_threads.install(self._sync_threads)
        self._thread.start()
        self._call(self._begin())
        self._call(self._host.prepare(self._lease_database.run(programs.deployed)))
        self._recycler.check_limits()
        self._state = "running"
        self._lease.register()
        self._lease.start()
        self._pump.start()
        self._loop_watch.start()
        self._watchdog.start()
        self._recycler.start()
        freeze_and_trim()
        log.info("worker %s is ready: %s executions at once", self.worker_id, self._executor.concurrency)
        fleet_pipe.tell(fleet_pipe.READY)

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        """Run these executions on the loop; there, ``on_start`` is called once one is claimed, ``on_end`` at its end.

        All at once, because waking the loop from another thread costs more than starting an execution.
        """
        self._received += len(received.ids)
        RECEIVED.inc(len(received.ids))
        self._loop.call_soon_threadsafe(self._executor.begin, received, on_start, on_end)

    def refuse(self, reason: str) -> None:
        """Count a message that was refused: see workers/consume/refusal_counts.py. From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._refusals.note, reason)

    def revoke(self, ids: Collection[UUID], *, running: bool) -> list[UUID]:
        """Cancel queued executions, and ``running`` ones wherever they run. Returns those that ended at once.

        Raises BackendUnavailable when Postgres is out of reach; then nothing is cancelled.
        """
        found = self._pump_database.run(partial(control.cancel, ids=ids, running=running))
        self._broker.publish_hint(DONE_CHANNEL, found.ended)
        if running:
            self._broker.publish_hint(CANCEL_CHANNEL, found.running)
        return found.ended

    def resize(self, concurrency: int) -> None:
        """Run up to so many executions at once from now on."""
        self._loop.call_soon_threadsafe(self._executor.resize, concurrency)
        log.info("%s executions at once from now on", concurrency)

    def hurry(self, grace_seconds: float | None = None) -> None:
        """Stop within so many seconds, by default DSPEX_GRACE_SECONDS, once stopping begins or from now on.

        Safe in a signal handler.
        """
        seconds = self._settings.grace_seconds if grace_seconds is None else grace_seconds
        self._grace_seconds = min(self._grace_seconds, seconds)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._executor.hurry, seconds)

    def stop(self) -> None:
        """Let what runs finish for the grace period, hand back the rest, release the lease. Once is enough."""
        with self._stopping:
            if self._state != "stopping":
                self._state = "stopping"
                self._stop()

    def _stop(self) -> None:
        self._recycler.stop()
        self._watchdog.stop()
        self._watchdog.close()
        grace = "as long as they need" if math.isinf(self._grace_seconds) else f"{self._grace_seconds:g} s"
        log.info("stopping: %s executions are running, they have %s to finish", self.running, grace)
        self._call(self._executor.drain(self._grace_seconds))
        self._loop_watch.stop()
        self._http.stop()
        failpoint(AFTER_HAND_BACK)
        self._pump.stop()
        self._lease.stop()
        self._pump.close()
        self._lease.release()
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
        sync_threads.install(None)
        self._sync_threads.close()
        self._broker.close()
        self._lease_database.close()
        self._pump_database.close()
        tracing.stop(min(self._settings.grace_seconds, LAST_SPANS_SECONDS))
        log.info("stopped")

    def _retire(self, on_worn: Callable[[], None]) -> None:
        """Make room: what runs may end in its own time, which its deadline bounds."""
        self._grace_seconds = math.inf
        self._http.stop()  # the port is its successor's
        fleet_pipe.tell(fleet_pipe.RETIRING)
        on_worn()

    def _give_up(self, *, loop_turns: bool) -> None:
        """End this process as the watchdog asks: orderly if the loop still turns, and in any case."""
        limit = threading.Timer(self._settings.grace_seconds + GIVE_UP_SECONDS, os._exit, (EXIT_STUCK,))
        limit.daemon = True
        limit.start()
        try:
            if loop_turns:
                self.stop()
            else:
                self._lease.stop()
                self._lease.release()
        except BackendUnavailable as error:
            log.error("%s", error)  # noqa: TRY400 - the lease ends by itself
        logging.shutdown()
        os._exit(EXIT_STUCK)

    def _vitals(self) -> Vitals:
        return Vitals(
            self._executor.running,
            self._executor.concurrency,
            self._state,
            self._trouble(),
            memory_bytes=int(resident_mb() * 2**20),
            cpu=self._use.cpu(),
        )

    def _trouble(self) -> str | None:
        if self._loop_watch.trouble is not None:
            return self._loop_watch.trouble
        if strays := self._sync_threads.strays:
            return f"{len(strays)} of {self._sync_threads.most} threads for synchronous code are lost: {strays[0]}"
        return None

    def _turn(self) -> None:
        """The loop's thread. asyncio lets a task's SystemExit end the loop: here the task alone ends."""
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                log.error("a task of a program raised %s: the loop goes on", type(error).__name__)  # noqa: TRY400
            else:
                return

    def _abandon(self) -> None:
        self._loop.call_soon_threadsafe(self._executor.abandon)

    async def _begin(self) -> None:
        self._ledger.start()
        self._budgets.start()
        self._permits.start()
        self._streams.start()
        self._refusals.start()
        self._cancellation.start()

    async def _end(self) -> None:
        await self._cancellation.close()
        await self._adapters.close()
        await self._permits.close()
        await self._budgets.close()
        await self._streams.close()
        await self._refusals.close()
        await self._ledger.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _end_the_process(failure: threading.ExceptHookArgs) -> None:
    """A worker without its lease, its pump or its loop would stand in the way of those that have them.

    It ends as if killed: its lease runs out, and the others take over.
    """
    name = failure.thread.name if failure.thread else ""
    if not name.startswith("dspex-"):  # a program's own
        threading.__excepthook__(failure)
        return
    trace = (failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    log.critical("thread %s died of a bug; this worker ends", name, exc_info=trace)
    logging.shutdown()
    os._exit(EXIT_STUCK)
