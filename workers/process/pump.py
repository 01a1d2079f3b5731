"""The pump: feeds Redis from Postgres, and recovers the executions of dead workers.

Every worker runs one; the one that holds the lead does the work. It

* recovers: declares workers dead whose lease ran out, and requeues what they ran (leader/reaper.py);
* takes back what was dispatched but never claimed while Redis has no message for it;
* holds back executions that no live worker can run, and releases them when a worker comes that can;
* dispatches what is due, most urgent first and programs by turns, and keeps only a window of it in Redis;
* ends what waits for too long, and resumes what was missed (leader/parked_upkeep.py);
* charges programs with a budget for what the calls of dead workers may have cost.

Each is a statement or a short transaction and harmless when done twice, so a leader that was paused and resumes does
no damage. One that fails delays no other (leader/duties.py).
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

from dspex.errors import BackendUnavailable
from dspex.publish.broker import Broker, queue_depth
from dspex.publish.channels import DONE_CHANNEL, publish_ids
from dspex.publish.envelope import message_size
from dspex.settings.failpoints import AFTER_DISPATCH, failpoint
from dspex.store import workers
from dspex.store.database import Database
from dspex.store.lifecycle import budgets
from dspex.store.lifecycle.dispatch import (
    RESERVE,
    dispatch,
    find_held,
    find_refused,
    find_unclaimed,
    forget_starts,
    has_backlog,
    release,
    take_back,
)
from dspex.store.lifecycle.set_statements import for_each_row, row_fault
from dspex.store.operations import health
from workers.observe.metrics import BACKEND_FAILURES, DISPATCHED, PUMP_LEADER, QUEUE, TAKEN_BACK
from workers.process.leader.duties import Duties, Duty, SetAside
from workers.process.leader.observation import ClockWatch, LeadWatch
from workers.process.leader.parked_upkeep import ParkedUpkeep
from workers.process.leader.queue_guard import QueueGuard
from workers.process.leader.reaper import Reaper
from workers.process.periodic import Periodic

__all__ = ["Pump"]

log = logging.getLogger("dspex.workers")

INTERVAL_SECONDS = 0.2
#: After a round that dispatched BUSY_ROWS there is probably more: the next follows in BUSY_SECONDS. Each round that
#: dispatches fewer, because the window is full or the backlog is gone, doubles that pause up to the interval.
BUSY_ROWS = 20
BUSY_SECONDS = 0.02
#: How long the lead lasts without a renewal, by the monotonic clock of the worker that takes it; and how often the
#: others look.
LEAD_SECONDS = 2.0
LEAD_LOOK_SECONDS = LEAD_SECONDS / 4
#: The window: how many executions may wait in Redis for each that can run.
WINDOW_FACTOR = 2
#: When Postgres refuses to mark executions as dispatched, so many of each program are tried one by one.
MOST_TRIED = 1000
#: An execution that was dispatched and not claimed is dispatched again after this time.
UNCLAIMED_SECONDS = 2.0
#: The same while Redis still has messages: its own may be among them, and a second one is dropped.
UNCLAIMED_BUSY_SECONDS = 60.0
#: How often the leader looks for what was not claimed, for what was held back, for the calls of dead workers, and for
#: old starts.
CARE_INTERVAL_SECONDS = 1.0
#: How often it looks after parked executions.
PARKED_INTERVAL_SECONDS = 0.5
#: How many executions of a version are released at once that were held back for lack of a worker.
RELEASED_MOST = 10_000
#: Suspects run alone, in one worker of so many at most, so that the others have workers, too.
SUSPECTS_PART = 2
#: How often the leader measures the queue for its metrics.
MEASURE_INTERVAL_SECONDS = 10.0


class Pump(Periodic):
    """Leads under the id of this worker, which ``worker_id`` returns. ``refuse`` counts what it refuses in Redis."""

    name = "pump"

    def __init__(
        self, database: Database, broker: Broker, worker_id: Callable[[], UUID], *, refuse: Callable[[str], None]
    ) -> None:
        super().__init__(INTERVAL_SECONDS)
        self._database = database
        self._broker = broker
        self._redis = broker.client(socket_timeout=5)
        self._worker_id = worker_id
        self._pause = INTERVAL_SECONDS
        self._is_busy = False
        self._guard = QueueGuard(self._redis, database, refuse)
        self._lead = LeadWatch()
        self._aside = SetAside()
        self._clock = ClockWatch()
        self._reaper = Reaper(database, worker_id, self._clock, self._aside, self._announce)
        self._parked = ParkedUpkeep(database, self._announce)
        #: Whether this worker led when it last looked. Read by other threads.
        self.leads = False
        self._duties = Duties(
            Duty("recover", self._reaper.run),
            Duty("key_types", self._guard.set_keys_aside, CARE_INTERVAL_SECONDS),
            Duty("take_back", self._take_back, CARE_INTERVAL_SECONDS),
            Duty("release", self._release, CARE_INTERVAL_SECONDS),
            Duty("parked", self._parked.run, PARKED_INTERVAL_SECONDS),
            Duty("budgets", self._charge_the_dead, CARE_INTERVAL_SECONDS),
            Duty("starts", self._forget_starts, CARE_INTERVAL_SECONDS),
            Duty("measure", self._measure_queue, MEASURE_INTERVAL_SECONDS),
            Duty("dispatch", self._dispatch),
        )

    def wake(self) -> None:
        """Dispatch at once what was just queued, if this worker leads. Another leader looks soon enough."""
        if self.leads:
            super().wake()

    def run_once(self) -> float | None:
        if not self._leads():
            self.leads = False
            PUMP_LEADER.set(0)
            QUEUE.forget()
            self._reaper.forget()
            self._parked.forget()
            return LEAD_LOOK_SECONDS
        self.leads = True
        PUMP_LEADER.set(1)
        self._duties.do()
        return self._pause

    def on_failure(self, error: Exception) -> None:
        self.leads = False
        PUMP_LEADER.set(0)
        QUEUE.forget()

    def stop(self) -> None:
        """Stop and give up the lead. Raises BackendUnavailable; then the lead expires."""
        super().stop()
        self.leads = False
        self._redis.close()
        self._database.run(lambda connection: workers.resign(connection, self._worker_id()))

    def _leads(self) -> bool:
        """Take or keep the lead, and report what this leader cannot do."""
        own, now = self._worker_id(), time.monotonic()
        silent = self._lead.silent(now, seconds=LEAD_SECONDS)
        try:
            lead = self._database.run(
                partial(workers.lead, duty="pump", worker_id=own, seconds=LEAD_SECONDS, silent=silent,
                        trouble=self._trouble())
            )  # fmt: skip
        except BackendUnavailable:
            self._reaper.forget()
            raise
        self._lead.note(lead, now)
        if lead is None:
            return False
        self._clock.note(lead.shown, now, time.monotonic())
        return lead.worker_id == own

    def _trouble(self) -> str | None:
        """What this leader cannot do, as JSON text."""
        found = {"duties": self._duties.failures(), **self._aside.report()}
        return json.dumps(found) if found["duties"] or found["set_aside"] else None

    def _charge_the_dead(self) -> None:
        self._database.run(budgets.charge_the_dead)

    def _forget_starts(self) -> None:
        self._database.run(forget_starts)

    def _measure_queue(self) -> None:
        if QUEUE.wanted:
            fleet = self._database.run(partial(workers.fleet, beating=self._reaper.beating()))
            QUEUE.note(self._database.run(health.backlogs), workers=fleet.count)

    def _take_back(self) -> None:
        """Dispatch again what was dispatched a while ago and never claimed: Redis may have lost its message."""
        try:
            waiting = queue_depth(self._redis)
        except (redis.RedisError, OSError) as error:
            BACKEND_FAILURES.labels("redis").inc()
            log.debug("cannot read the length of the queue: %s", error)
            return
        older_than, most = (UNCLAIMED_BUSY_SECONDS, 1000) if waiting else (UNCLAIMED_SECONDS, 10_000)
        if self._guard.end_flood(waiting):
            older_than, most = 0.0, 10_000
        ids = self._database.run(partial(find_unclaimed, older_than=older_than, most=most, aside=self._aside.ids()))
        taken, faults = for_each_row(lambda ids: self._database.run(partial(take_back, ids=ids)), ids)
        self._aside.add("take back", faults)
        if taken:
            TAKEN_BACK.inc(len(taken))
            log.warning("%s dispatched executions were not claimed in time: they are dispatched again", len(taken))

    def _release(self) -> None:
        """Release what was held back for lack of a worker, once a live worker can run it."""
        unrunnable = self._database.run(partial(workers.fleet, beating=self._reaper.beating())).unrunnable
        ids = self._database.run(partial(find_held, unrunnable=unrunnable, most=RELEASED_MOST, aside=self._aside.ids()))
        released, faults = for_each_row(lambda ids: self._database.run(partial(release, ids=ids)), ids)
        self._aside.add("release", faults)
        if released:
            log.info("%s executions are no longer held back: a worker can run their programs", len(released))

    def _dispatch(self) -> None:
        """Dispatch what is due. The next round follows at once when there is probably more."""
        self._pause = min(self._pause * 2, INTERVAL_SECONDS)
        # While there is nothing to dispatch, one statement says so, instead of a transaction of five.
        if not self._is_busy and not self._database.run(has_backlog):
            return
        try:
            found, fleet = self._marked()
        except (DBAPIError, BackendUnavailable) as error:
            if row_fault(error) is None:
                raise
            self._set_aside_what_is_refused()
            found, fleet = self._marked()
        self._is_busy = bool(found)
        rows = [row for row in found if not row.held]
        if rows:
            DISPATCHED.inc(len(rows))
            failpoint(AFTER_DISPATCH)
        groups: defaultdict[tuple[int, bool, str, bool], list[UUID]] = defaultdict(list)
        for row in rows:
            groups[row.priority, row.turn > RESERVE, row.program, row.suspect].append(row.id)
        for (priority, bulk, program, alone), ids in sorted(groups.items()):
            size = 1 if alone else message_size(len(ids), workers=fleet.count, smallest=fleet.smallest, least=2)
            messages = [ids[begin : begin + size] for begin in range(0, len(ids), size)]
            self._publish(messages, program, priority, bulk, alone)
        if len(found) >= BUSY_ROWS:
            self._pause = BUSY_SECONDS

    def _marked(self) -> tuple[Sequence[Row[Any]], workers.FleetCapacity]:
        """The executions that are dispatched or held back now, and the workers that they are for."""
        with self._database.transaction() as connection:
            fleet = workers.fleet(connection, self._reaper.beating())
            window, suspects_most = fleet.concurrency * WINDOW_FACTOR, max(fleet.count // SUSPECTS_PART, 1)
            rows = dispatch(connection, window, fleet.unrunnable, aside=self._aside.ids(), suspects_most=suspects_most)
            return rows, fleet

    def _set_aside_what_is_refused(self) -> None:
        with self._database.transaction() as connection:
            faults = find_refused(connection, most=MOST_TRIED, aside=self._aside.ids())
        self._aside.add("dispatch", faults)

    def _publish(
        self, messages: Iterable[Sequence[UUID]], program: str, priority: int, bulk: bool, alone: bool
    ) -> None:
        for ids in messages:
            try:
                self._broker.publish(ids, program=program, priority=priority, bulk=bulk, alone=alone)
            except BackendUnavailable as error:
                # The executions stay marked as dispatched, and are dispatched again once Redis answers.
                log.debug("%s", error)
                return

    def _announce(self, ids: Sequence[UUID]) -> None:
        if ids:
            try:
                publish_ids(self._redis, DONE_CHANNEL, ids)
            except (redis.RedisError, OSError) as error:
                log.debug("cannot announce %s endings: %s", len(ids), error)
