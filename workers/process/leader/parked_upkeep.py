"""Upkeep of parked executions: what no answer ends, and what was missed when a process died."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from dspex.errors import ModelError
from dspex.store.database import Database
from dspex.store.lifecycle import approvals, budgets, bundles, parked
from dspex.store.lifecycle.approvals import call_id
from workers.attempt.settlement import stored_error
from workers.lm.model_calls import LATE
from workers.observe.metrics import WAITING

__all__ = ["ParkedUpkeep"]

log = logging.getLogger("dspex.workers")

MOST = 1000
#: Looking for executions that were missed reads all that wait: it takes this share of the time at most.
SWEEP_SECONDS, SWEEP_SHARE = 1.0, 0.05
#: Ended bundles are listed for so long.
BUNDLES_DAYS = 30.0
MEASURE_SECONDS = 10.0


class ParkedUpkeep:
    """Works while its worker leads. ``announce`` publishes the ids of executions that have ended."""

    def __init__(self, database: Database, announce: Callable[[Sequence[UUID]], None]) -> None:
        self._database = database
        self._announce = announce
        self._sweep_at = 0.0
        self._measure_at = 0.0

    def run(self) -> None:
        """Fail what is past its deadline, reject calls without a decision in time, send late requests the
        ordinary way, and resume what was missed."""
        if expired := self._database.run(partial(parked.expire, most=MOST)):
            log.warning("%s executions timed out while they waited", len(expired))
            self._announce(expired)
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

    def _late(self, kind: parked.WaitingFor) -> list[Row[Any]]:
        return self._database.run(partial(parked.late_calls, kind=kind, most=MOST))

    def _sweep(self) -> None:
        """Resume what was missed, and forget what nothing waits for."""
        began = time.monotonic()
        ids = self._database.run(self._missed)
        if ids:
            with self._database.transaction() as connection:
                parked.resume_ready(connection, ids)
        self._database.run(partial(parked.forget, most=MOST))
        self._database.run(budgets.release_waits)
        self._database.run(partial(bundles.forget_ended, days=BUNDLES_DAYS))
        self._sweep_at = time.monotonic() + max(SWEEP_SECONDS, (time.monotonic() - began) / SWEEP_SHARE)

    def _missed(self, connection: Connection) -> list[UUID]:
        return sorted({*parked.waiting_parents(connection, most=MOST), *parked.ready(connection, most=MOST)})

    def _measure(self) -> None:
        self._measure_at = time.monotonic() + MEASURE_SECONDS
        WAITING.clear()
        for wait in self._database.run(parked.waits):
            WAITING.labels(wait.waiting_for).set(wait.executions)
