"""A worker process: its services, in the order in which they start."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from dspex.publish.broker import Broker
from dspex.publish.channels import CANCEL_CHANNEL, DONE_CHANNEL
from dspex.settings import Backends, Settings
from dspex.settings.failpoints import arm
from dspex.store import migrate, programs
from dspex.store.database import Database
from dspex.store.lifecycle import control
from workers.adapters.code_interpreter import interpreter_name
from workers.adapters.user_code import allow_packages
from workers.attempt import sync_threads
from workers.attempt.executor import OnEnd, OnStart, Received
from workers.attempt.sync_threads import SyncThreads
from workers.observe import tracing
from workers.observe.metrics import RECEIVED
from workers.observe.probe_server import ProbeServer
from workers.observe.probes import Probes
from workers.process import fleet_pipe
from workers.process.execution_services import Drain, ExecutionServices
from workers.process.leader.bundle_service import BundleService
from workers.process.lease import Lease
from workers.process.loop_thread import LoopThread
from workers.process.loop_watch import LoopWatch
from workers.process.malloc import freeze_and_trim
from workers.process.pump import Pump
from workers.process.recycling import Recycler
from workers.process.services import FunctionService, Service, start_all, stop_all
from workers.process.watchdog import Consumption, Watchdog
from workers.process.worker_state import VitalSigns, WorkerState

__all__ = ["Runtime"]

log = logging.getLogger("dspex.workers")

#: The exit code of a worker that its watchdog ended (EX_SOFTWARE of sysexits.h).
EXIT_STUCK = 70
#: How long a stop may take beyond the grace period before the process is ended.
STOP_LIMIT_SECONDS = 30.0
#: How long sending the last spans may take.
LAST_SPANS_SECONDS = 5.0


class Runtime:
    """Everything of a worker except Celery. :meth:`start` returns once it may claim executions.

    ``consumption`` returns whether Celery consumes. ``on_retire`` is called once, when this process should be
    replaced by a fresh one: :meth:`stop` then waits for all running attempts, unless :meth:`hurry` shortens that.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        concurrency: int,
        consumption: Callable[[], Consumption],
        on_retire: Callable[[], None],
    ) -> None:
        arm(settings.failpoints)
        allow_packages(settings.program_packages)
        self._on_retire = on_retire
        self._exit_seconds = settings.grace_seconds + STOP_LIMIT_SECONDS
        self._worker = worker = WorkerState()
        self._connections = connections = BackendConnections(settings.backends())
        self._threads = threads = SyncThreads(settings.worker_threads)
        self._loop = loop = LoopThread()
        self._executions = ExecutionServices(settings, worker, loop, concurrency=concurrency)
        self._executor = executor = self._executions.executor
        self._drain = Drain(loop, executor, grace_seconds=settings.grace_seconds)
        loop_watch = LoopWatch(
            loop.loop, give_up_seconds=settings.watchdog_seconds, on_stuck=self._release_lease_and_exit
        )
        self._vital_signs = VitalSigns(worker, executor, loop_watch, threads, self._executions.unrunnable)
        self._lease = Lease(
            connections.lease_database, worker, lease_seconds=settings.lease_seconds,
            program_packages=settings.program_packages, code_interpreter=interpreter_name(),
            vitals=self._vital_signs.read,
            on_lost=partial(loop.call_soon, executor.abandon),
            on_renewed=partial(loop.call_soon, executor.take_up),
        )  # fmt: skip
        probes = Probes(
            worker, executor, self._lease, loop_watch, threads, consumption, hung_seconds=settings.watchdog_seconds / 2
        )
        self._probe_server = ProbeServer(settings, probes)
        pump = Pump(connections.pump_database, connections.broker, worker.current_id, refuse=self.refuse)
        self._executions.ledger.on_queued(pump.wake)
        bundle_service = BundleService(connections.bundle_database, settings, lambda: pump.leads)
        watchdog = Watchdog(
            connections.broker, worker, executor, threads, consumption,
            seconds=settings.watchdog_seconds, on_stuck=self._stop_and_exit,
        )  # fmt: skip
        recycler = Recycler(
            worker, max_memory_mb=settings.worker_max_memory_mb, max_executions=settings.worker_max_executions,
            on_due=self._retire,
        )  # fmt: skip
        #: They start in this order and stop in the opposite one.
        self._services: Sequence[Service] = (
            fleet_pipe.ProcessHeartbeat(settings.watchdog_seconds),  # the first: starts are watched, too
            self._probe_server,  # it answers while the others start
            FunctionService(tracing.start, partial(tracing.stop, min(settings.grace_seconds, LAST_SPANS_SECONDS))),
            connections,
            FunctionService(partial(sync_threads.install, threads), self._close_threads),
            loop,
            *self._executions.services,
            FunctionService(self._load_programs),
            FunctionService(recycler.check_limits),
            FunctionService(worker.mark_running),
            self._lease,
            pump,
            bundle_service,
            loop_watch,
            self._drain,
            watchdog,
            recycler,
        )
        # A signal handler may stop the runtime again while the same thread stops it.
        self._stopping = threading.RLock()

    @property
    def worker_id(self) -> UUID:
        return self._worker.id

    @property
    def running(self) -> int:
        return self._executor.running

    def info(self) -> dict[str, Any]:
        """What ``celery inspect stats`` shows of this worker, by name; JSON-friendly."""
        return {
            "worker-id": str(self.worker_id),
            "state": self._worker.phase,
            "running": self.running,
            "received": self._worker.received,
            "refused": self._executions.refusals.counts,
            "unrunnable": [each._asdict() for each in self._executions.unrunnable.versions],
            "threads": {
                "most": self._threads.most,
                "busy": self._threads.busy,
                "waiting": self._threads.waiting,
                "lost": self._threads.strays,
            },
            "trouble": self._vital_signs.trouble(),
        }

    def start(self) -> None:
        """Start every service. Raises SchemaOutdated, BackendUnavailable, ConfigurationError."""
        threading.excepthook = _exit_when_a_service_fails
        start_all(self._services)
        freeze_and_trim()
        log.info("worker %s is ready: %s executions at once", self.worker_id, self._executor.concurrency)
        fleet_pipe.notify_parent(fleet_pipe.READY)

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        """Run these executions on the loop; there, ``on_start`` is called once one is claimed, ``on_end`` at its end.

        All at once, because waking the loop from another thread costs more than starting an execution.
        """
        self._worker.received += len(received.ids)
        RECEIVED.inc(len(received.ids))
        self._loop.call_soon(self._executor.begin, received, on_start, on_end)

    def refuse(self, reason: str) -> None:
        """Count a message that was refused: see workers/consume/refusal_counts.py. From any thread."""
        self._worker.refused += 1
        self._loop.call_soon(self._executions.refusals.note, reason)

    def revoke(self, ids: Collection[UUID], *, running: bool) -> list[UUID]:
        """Cancel queued executions, and ``running`` ones wherever they run. Returns those that ended at once.

        Raises BackendUnavailable when Postgres is out of reach; then nothing is cancelled.
        """
        broker = self._connections.broker
        found, refused = control.cancel_each(
            lambda some: self._connections.pump_database.run(partial(control.cancel, ids=some, running=running)),
            list(ids),
        )
        for fault in refused:
            log.error("%s cannot be cancelled: Postgres refuses the change: %s", fault.row, fault.reason)
        broker.publish_hint(DONE_CHANNEL, found.ended)
        if running:
            broker.publish_hint(CANCEL_CHANNEL, found.running)
        return found.ended

    def resize(self, concurrency: int) -> None:
        """Run up to this many executions at once from now on."""
        self._loop.call_soon(self._executor.resize, concurrency)
        log.info("%s executions at once from now on", concurrency)

    def hurry(self, grace_seconds: float | None = None) -> None:
        """Shorten the time that running attempts have when this worker stops: see :meth:`Drain.hurry`."""
        self._drain.hurry(grace_seconds)

    def stop(self) -> None:
        """Let running attempts finish for the grace period, hand back the others, release the lease.

        Does nothing when called again.
        """
        with self._stopping:
            if self._worker.phase != "stopping":
                self._worker.phase = "stopping"
                stop_all(self._services)
                log.info("stopped")

    def _load_programs(self) -> None:
        """Import what programs need, so that no execution waits for it, and find those that cannot run here."""
        found = self._connections.lease_database.run(programs.waiting)
        self._loop.run(self._executions.host.prepare(found))

    def _close_threads(self) -> None:
        sync_threads.install(None)
        self._threads.close()

    def _retire(self) -> None:
        """Make room for a fresh process: running attempts finish, and only their deadlines bound how long."""
        self._drain.allow_all_time()
        self._probe_server.stop()  # the replacement takes over the port
        fleet_pipe.notify_parent(fleet_pipe.RETIRING)
        self._on_retire()

    def _stop_and_exit(self) -> None:
        """The worker is alive and does no work: stop it in order if that is possible, and end the process."""
        _exit_within(self._exit_seconds)
        self.stop()
        _exit_now()

    def _release_lease_and_exit(self) -> None:
        """The loop is blocked, so that nothing on it can be stopped: let others take over at once."""
        _exit_within(self._exit_seconds)
        stop_all([self._lease])
        _exit_now()


class BackendConnections:
    """The connections of a worker's threads. The service checks the schema when it starts."""

    def __init__(self, backends: Backends) -> None:
        # Apart, so that a renewal of the lease never waits for the pump's statements, nor the pump for bundles.
        self.lease_database = Database(backends.database_url, pool_size=1, application_name="dspex worker lease")
        self.pump_database = Database(backends.database_url, pool_size=1, application_name="dspex worker pump")
        # Few of the calls that wait are in no bundle: Postgres, which cannot know it, would read them all.
        self.bundle_database = Database(
            backends.database_url, pool_size=1, application_name="dspex worker bundles", enable_seqscan="off"
        )
        self.broker = Broker(backends.broker_url, pool_size=1)

    def start(self) -> None:
        self.lease_database.run(migrate.check)

    def stop(self) -> None:
        self.broker.close()
        self.lease_database.close()
        self.pump_database.close()
        self.bundle_database.close()


def _exit_now() -> None:
    logging.shutdown()
    os._exit(EXIT_STUCK)


def _exit_within(seconds: float) -> None:
    """End this process even if its orderly stop never ends."""
    limit = threading.Timer(seconds, os._exit, (EXIT_STUCK,))
    limit.daemon = True
    limit.start()


def _exit_when_a_service_fails(failure: threading.ExceptHookArgs) -> None:
    """End this process when the thread of a service dies of a bug, as a kill would.

    Without its lease, its pump or its loop it could do no work. Its lease expires, and other workers take over.
    """
    name = failure.thread.name if failure.thread else ""
    if not name.startswith("dspex-"):  # a thread of a program
        threading.__excepthook__(failure)
        return
    trace = (failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    log.critical("thread %s died of a bug; this worker ends", name, exc_info=trace)
    _exit_now()
