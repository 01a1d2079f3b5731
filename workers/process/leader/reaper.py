"""The reaper: declares workers dead, and takes lost and overdue attempts from their workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from dspex.errors import BackendUnavailable
from dspex.settings.failpoints import AFTER_RECOVER, BEFORE_RECOVER, failpoint
from dspex.store import workers
from dspex.store.database import Database
from dspex.store.lifecycle import recovery
from dspex.store.lifecycle.recovery import Overdue
from dspex.store.lifecycle.set_statements import for_each_row
from dspex.store.lifecycle.status import Status
from workers.observe.metrics import POISONED, RECOVERED
from workers.process.leader.duties import SetAside
from workers.process.leader.observation import ClockWatch, HeartbeatWatch

__all__ = ["Reaper"]

log = logging.getLogger("dspex.workers")

#: An attempt this far past its deadline is taken from its worker: longer than the worker needs to end it by itself.
OVERDUE_SECONDS = 10.0


class Reaper:
    """Works while its worker leads. ``announce`` publishes the ids of executions that have ended."""

    def __init__(
        self,
        database: Database,
        worker_id: Callable[[], UUID],
        clock: ClockWatch,
        aside: SetAside,
        announce: Callable[[Sequence[UUID]], None],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._aside = aside
        self._announce = announce
        self._heartbeats = HeartbeatWatch()
        self._clock = clock

    def forget(self) -> None:
        """Begin to observe anew: this worker did not lead, or Postgres was out of reach for all workers."""
        self._heartbeats.forget()

    def beating(self) -> Collection[UUID]:
        """The workers that were seen to renew their lease, and hold it."""
        return self._heartbeats.beating(time.monotonic())

    def run(self) -> float:
        """Look at the heartbeats, declare dead workers dead, and recover. Returns the seconds until the next look."""
        try:
            self._look()
        except BackendUnavailable:
            self.forget()
            raise
        if self._heartbeats.is_complete(time.monotonic()):
            failpoint(BEFORE_RECOVER)
        if silent := self._heartbeats.silent(time.monotonic()):
            self._database.run(partial(workers.declare_dead, silent=silent))
        self._recover()
        return self._heartbeats.pause_seconds(time.monotonic())

    def _look(self) -> None:
        found = self._database.run(workers.heartbeats)
        self._heartbeats.note(found, time.monotonic())

    def _recover(self) -> None:
        assert self._clock.since is not None
        overdue = Overdue(OVERDUE_SECONDS, self._clock.since, self._clock.seconds(time.monotonic()))
        ids = self._database.run(partial(recovery.find_lost, overdue=overdue, aside=self._aside.ids()))
        rows, faults = for_each_row(partial(self._take, overdue), ids)
        self._aside.add("recover", faults)
        if rows:
            self._report(rows)

    def _take(self, overdue: Overdue, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
        return self._database.run(partial(recovery.recover, worker_id=self._worker_id(), ids=ids, overdue=overdue))

    def _report(self, rows: Sequence[Row[Any]]) -> None:
        RECOVERED.inc(len(rows))
        POISONED.inc(sum(row.expired and row.status == Status.FAILED for row in rows))
        failpoint(AFTER_RECOVER)
        if lost := sum(row.expired for row in rows):
            log.warning("recovered %s executions of dead workers", lost)
        for row in rows:
            if not row.expired:
                log.error("%s: attempt %s did not end at its deadline, worker %s is fenced off: %s",
                          row.id, row.attempt, row.worker_id, row.status)  # fmt: skip
        self._announce([row.id for row in rows if Status(row.status).is_final])
