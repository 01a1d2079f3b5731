"""The pump: feeds Redis from Postgres, and recovers the executions of dead workers.

Every worker runs one; the one that holds the lead does the work. It

* recovers: declares workers dead whose lease ran out, and requeues what they ran;
* takes back what was dispatched but never claimed while Redis has no message for it;
* dispatches what is due, most urgent first and programs by turns, and keeps only a window of it in Redis;
* charges programs with a budget for what the calls of dead workers may have cost.

Each is a statement or a short transaction and harmless when done twice, so a leader that was paused and resumes does
no damage.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from uuid import UUID

import redis

from dspex.errors import BackendUnavailable
from dspex.publish.broker import Broker, queue_depth
from dspex.publish.channels import DONE_CHANNEL, publish_ids
from dspex.settings.failpoints import AFTER_DISPATCH, AFTER_RECOVER, BEFORE_RECOVER, failpoint
from dspex.store import workers
from dspex.store.database import Database
from dspex.store.lifecycle import budgets, recovery
from dspex.store.lifecycle.dispatch import RESERVE, dispatch, forget_starts, redispatch
from dspex.store.lifecycle.status import Status
from dspex.store.operations import health
from workers.observe.metrics import BACKEND_FAILURES, DISPATCHED, POISONED, PUMP_LEADER, QUEUE, RECOVERED, TAKEN_BACK
from workers.process.periodic import Periodic

__all__ = ["Pump"]

log = logging.getLogger("dspex.workers")

INTERVAL_SECONDS = 0.2
#: After a round that dispatched BUSY_ROWS there is probably more: the next follows in BUSY_SECONDS. Each round that
#: dispatches fewer, because the window is full or the backlog is gone, doubles that pause up to the interval.
BUSY_ROWS = 20
BUSY_SECONDS = 0.02
#: How long the lead lasts without a renewal: a leader that dies is replaced within this time.
LEAD_SECONDS = 2.0
#: The window: how many executions may wait in Redis for each that can run.
WINDOW_FACTOR = 2
#: The most that one message carries: MESSAGE_MOST executions, 1/SLOTS_PART of what the smallest worker runs at once,
#: and only so much of a round that each worker gets MESSAGES_LEAST messages of it.
MESSAGE_MOST = 100
SLOTS_PART = 2
MESSAGES_LEAST = 2
#: An execution that was dispatched and not claimed is dispatched again after this time.
UNCLAIMED_SECONDS = 2.0
#: The same while Redis still has messages: its own may be among them, and a second one is dropped.
UNCLAIMED_BUSY_SECONDS = 60.0
RECOVER_INTERVAL_SECONDS = 1.0
#: How often the leader measures the queue for its metrics.
MEASURE_INTERVAL_SECONDS = 10.0
#: An attempt this far past its deadline is taken from its worker: longer than the worker needs to end it by itself.
OVERDUE_SECONDS = 10.0


def message_size(count: int, fleet: workers.FleetCapacity) -> int:
    """How many of ``count`` executions travel in one message.

    A message costs its worker as much CPU as several executions that do nothing, so larger messages are better; but no
    worker should receive what another has room for.
    """
    share = math.ceil(count / (max(fleet.count, 1) * MESSAGES_LEAST))
    return max(min(share, fleet.smallest // SLOTS_PART, MESSAGE_MOST), 1)


class Pump(Periodic):
    """Leads under the id of this worker, which ``worker_id`` returns."""

    name = "pump"

    def __init__(self, database: Database, broker: Broker, worker_id: Callable[[], UUID], lease_seconds: float) -> None:
        super().__init__(INTERVAL_SECONDS)
        self._database = database
        self._broker = broker
        self._redis = broker.client(socket_timeout=5)
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._in_touch_since = math.inf
        self._last_run = 0.0
        self._pause = INTERVAL_SECONDS
        self._recovered_at = -math.inf
        self._measured_at = -math.inf

    def run_once(self) -> float | None:
        self._note_contact()
        leads = self._database.run(
            lambda connection: workers.lead(connection, "pump", self._worker_id(), seconds=LEAD_SECONDS)
        )
        PUMP_LEADER.set(leads)
        if not leads:
            QUEUE.forget()
            return LEAD_SECONDS / 2
        if time.monotonic() - self._recovered_at >= RECOVER_INTERVAL_SECONDS:
            self._recover()
            self._take_back()
            self._database.run(budgets.charge_the_dead)
            self._database.run(forget_starts)
            self._recovered_at = time.monotonic()
        if QUEUE.wanted and time.monotonic() - self._measured_at >= MEASURE_INTERVAL_SECONDS:
            self._measure_queue()
        self._pause = BUSY_SECONDS if self._dispatch() >= BUSY_ROWS else min(self._pause * 2, INTERVAL_SECONDS)
        return self._pause

    def on_failure(self, error: Exception) -> None:
        PUMP_LEADER.set(0)
        QUEUE.forget()
        self._in_touch_since = math.inf

    def stop(self) -> None:
        """Stop and give up the lead. Raises BackendUnavailable; then the lead expires."""
        super().stop()
        self._redis.close()
        self._database.run(lambda connection: workers.resign(connection, self._worker_id()))

    def _measure_queue(self) -> None:
        fleet = self._database.run(workers.fleet)
        QUEUE.note(self._database.run(health.backlogs), workers=fleet.count)
        self._measured_at = time.monotonic()

    def _note_contact(self) -> None:
        """Note since when this worker has reached Postgres without a break."""
        now = time.monotonic()
        if math.isinf(self._in_touch_since) or now - self._last_run > self._lease_seconds / 2:
            self._in_touch_since = now
        self._last_run = now

    def _recover(self) -> None:
        # After an outage of Postgres every heartbeat is old: live workers get the time to renew theirs.
        if time.monotonic() - self._in_touch_since < self._lease_seconds:
            return
        failpoint(BEFORE_RECOVER)
        rows = self._database.run(
            lambda connection: recovery.recover(connection, self._worker_id(), overdue_seconds=OVERDUE_SECONDS)
        )
        if rows:
            RECOVERED.inc(len(rows))
            POISONED.inc(sum(row.expired and row.status == Status.FAILED for row in rows))
            failpoint(AFTER_RECOVER)
            if dead := sum(row.expired for row in rows):
                log.warning("recovered %s executions of dead workers", dead)
            for row in rows:
                if not row.expired:
                    log.error("%s: attempt %s did not end at its deadline, worker %s is fenced off: %s",
                              row.id, row.attempt, row.worker_id, row.status)  # fmt: skip
            self._announce([row.id for row in rows if Status(row.status).is_final])

    def _take_back(self) -> None:
        """Dispatch again what was dispatched a while ago and never claimed: Redis may have lost its message."""
        try:
            waiting = queue_depth(self._redis)
        except (redis.RedisError, OSError) as error:
            BACKEND_FAILURES.labels("redis").inc()
            log.debug("cannot read the length of the queue: %s", error)
            return
        older_than, most = (UNCLAIMED_BUSY_SECONDS, 1000) if waiting else (UNCLAIMED_SECONDS, 10_000)
        count = self._database.run(partial(redispatch, older_than=older_than, most=most))
        if count:
            TAKEN_BACK.inc(count)
            log.warning("%s dispatched executions were not claimed in time: they are dispatched again", count)

    def _dispatch(self) -> int:
        with self._database.transaction() as connection:
            fleet = workers.fleet(connection)
            rows = dispatch(connection, fleet.concurrency * WINDOW_FACTOR)
        if rows:
            DISPATCHED.inc(len(rows))
            failpoint(AFTER_DISPATCH)
        groups: defaultdict[tuple[int, bool, str], list[UUID]] = defaultdict(list)
        for row in rows:
            groups[row.priority, row.turn > RESERVE, row.program].append(row.id)
        for (priority, bulk, program), ids in sorted(groups.items()):
            size = message_size(len(ids), fleet)
            messages = [ids[begin : begin + size] for begin in range(0, len(ids), size)]
            self._publish(messages, program, priority, bulk)
        return len(rows)

    def _publish(self, messages: Iterable[Sequence[UUID]], program: str, priority: int, bulk: bool) -> None:
        for ids in messages:
            try:
                self._broker.publish(ids, program=program, priority=priority, bulk=bulk)
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
