"""Upkeep of parked executions: what no answer ends, and what was missed when a process died."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args
from uuid import UUID

from sqlalchemy import Row

from dspex.errors import ModelError
from dspex.store.database import Database
from dspex.store.lifecycle import approvals, budgets, bundles, control, parked
from dspex.store.lifecycle.approvals import call_id
from dspex.store.lifecycle.parked import CallKey, ParkedSince, WaitingFor
from workers.attempt.settlement import stored_error
from workers.lm.model_calls import LATE
from workers.observe.metrics import WAITING

__all__ = ["ParkedUpkeep"]

log = logging.getLogger("dspex.workers")

MOST = 1000
#: How often the leader looks for executions that were missed, and at how many of what waits: the next ones each time,
#: so that it takes no longer however many wait.
SWEEP_SECONDS, SWEPT = 1.0, 500
REASONS: tuple[WaitingFor, ...] = get_args(WaitingFor)
#: Ended bundles are listed for so long.
BUNDLES_DAYS = 30.0
MEASURE_SECONDS = 10.0


class ParkedUpkeep:
    """Works while its worker leads. ``announce`` publishes the ids of executions that have ended."""

    def __init__(self, database: Database, announce: Callable[[Sequence[UUID]], None]) -> None:
        self._database = database
        self._announce = announce
        self._sweep_at = 0.0
        #: Where the next looks begin.
        self._waiters: dict[WaitingFor, ParkedSince | None] = dict.fromkeys(REASONS)
        self._call: CallKey = parked.FIRST_CALL
        self._reservation = budgets.FIRST_RESERVATION
        self._measure_at = 0.0

    def run(self) -> None:
        """Fail what is past its deadline, reject calls without a decision in time, send late requests the
        ordinary way, and resume what was missed."""
        if expired := self._database.run(partial(parked.expire, most=MOST)):
            log.warning("%s executions timed out while they waited", len(expired))
            self._announce(expired)
            self._announce(self._database.run(partial(control.cancel_children, ids=expired)).ended_children)
        self._reject_late()
        self._give_up_late()
        if time.monotonic() >= self._sweep_at:
            self._sweep()
        if time.monotonic() >= self._measure_at:
            self._measure()

    def forget(self) -> None:
        """This worker does not lead: it reports no figures."""
        WAITING.clear()
        self._measure_at = 0.0

    def _reject_late(self) -> None:
        for call in self._late("approval"):
            decision = {"approved": False, "by": "expiry", "note": "no decision came in time"}
            with self._database.transaction() as connection:
                name = call_id(call.request_hash, call.occurrence)
                approvals.decide(connection, call.execution_id, name, decision)

    def _give_up_late(self) -> None:
        """Requests whose time is over before they were in a bundle."""
        calls = self._late("batch")
        if calls:
            error = stored_error(ModelError("no bundle took the request in time", code=LATE, retryable=True))
            given_up = [(call.execution_id, bytes(call.request_hash), call.occurrence, error) for call in calls]
            with self._database.transaction() as connection:
                parked.give_up_calls(connection, given_up)
                budgets.charge_waits(connection, [(*each[:3], 0.0) for each in given_up])

    def _late(self, kind: WaitingFor) -> list[Row[Any]]:
        return self._database.run(partial(parked.late_calls, kind=kind, most=MOST))

    def _sweep(self) -> None:
        """Resume what was missed, and forget what nothing waits for."""
        for reason in REASONS:
            self._resume_missed(reason)
        self._call = self._database.run(partial(parked.forget, after=self._call, most=SWEPT)) or parked.FIRST_CALL
        release = partial(budgets.release_waits, after=self._reservation, most=SWEPT)
        self._reservation = self._database.run(release) or budgets.FIRST_RESERVATION
        self._database.run(partial(bundles.forget_ended, days=BUNDLES_DAYS))
        self._sweep_at = time.monotonic() + SWEEP_SECONDS

    def _resume_missed(self, reason: WaitingFor) -> None:
        """A worker died, or a child ended without a worker."""
        after = self._waiters[reason]
        found = self._database.run(partial(parked.waiters, waiting_for=reason, after=after, most=SWEPT))
        self._waiters[reason] = found[-1] if len(found) == SWEPT else None
        ids = self._database.run(partial(parked.ready, ids=[each.id for each in found])) if found else []
        if ids:
            with self._database.transaction() as connection:
                parked.resume_ready(connection, sorted(ids))

    def _measure(self) -> None:
        self._measure_at = time.monotonic() + MEASURE_SECONDS
        WAITING.clear()
        for wait in self._database.run(parked.waits):
            WAITING.labels(wait.waiting_for).set(wait.executions)
