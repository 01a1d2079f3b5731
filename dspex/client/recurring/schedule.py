"""Schedules: programs that are submitted at the times of a cron expression."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from dspex.client.session import Session
from dspex.client.submitter import Submitter
from dspex.errors import BackendUnavailable, DspexError, FieldError
from dspex.store.lifecycle import control
from dspex.store.operations import schedules
from dspex.store.operations.schedules import ScheduleRow
from dspex.submit.cron import Cron, time_zone

__all__ = ["MISSED", "Schedule", "Schedules"]

log = logging.getLogger("dspex")

#: What becomes of due times that passed while nothing could fire them: one execution for all of them, or none.
MISSED = ("run_once", "skip")
#: A due time is missed when it is fired so much later.
LATE = timedelta(minutes=1)
#: The most schedules that are fired in one transaction.
MOST_AT_ONCE = 20
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: ``next_at`` is its next due time (UTC), ``last_at`` the last one that was submitted, as execution
    ``last_execution_id``. ``error`` is why the last due time submitted nothing."""

    name: str
    program: str
    inputs: Mapping[str, Any]
    cron: str
    timezone: str
    missed: str
    priority: int
    metadata: Mapping[str, Any] | None
    tenant: str | None
    next_at: datetime | None
    last_at: datetime | None
    last_execution_id: UUID | None
    error: str | None

    @classmethod
    def of(cls, row: ScheduleRow) -> Schedule:
        """The schedule in a row."""
        metadata = None if row.metadata is None else json.loads(row.metadata)
        return cls(
            row.name, row.program, json.loads(row.inputs), row.cron, row.timezone, row.missed, row.priority, metadata,
            row.tenant, row.next_at, row.last_at, row.last_execution_id, row.error,
        )  # fmt: skip


class Schedules:
    """The schedules of a deployment, through a session."""

    def __init__(self, session: Session, submitter: Submitter) -> None:
        self._session = session
        self._submitter = submitter
        #: Time zones that this host has no data for. A gateway on another host may have it.
        self._unknown_zones: set[str] = set()

    def set(
        self,
        name: str,
        *,
        program: str,
        inputs: Mapping[str, Any],
        cron: str,
        timezone: str,
        missed: str,
        priority: int,
        metadata: Mapping[str, Any] | None,
        tenant: str | None,
    ) -> Schedule:
        """Store a schedule, or replace the one of this name: see :meth:`dspex.Client.schedule`."""
        session = self._session
        current = session.catalogue.current(program, fresh=True)
        now = session.database.run(control.now)
        faults, next_at = _faults(name, cron, timezone, missed, now)
        if session.sealing.covers(current.signature):
            expected = "a program without secret fields: the inputs of a schedule are not encrypted"
            faults.append(FieldError("program", expected, repr(program)))
        # The same validation as at each submit, now: a schedule that cannot be submitted is refused.
        session.preparer.prepare(current, inputs, priority=priority, metadata=metadata, tenant=tenant, faults=faults)
        encoded = current.signature.encode("inputs", current.signature.validate_inputs(inputs)).decode()
        store = partial(
            schedules.store, name=name, program=program, inputs=encoded, cron=cron, timezone=timezone, missed=missed,
            priority=priority, metadata=None if metadata is None else json.dumps(metadata), tenant=tenant,
            next_at=next_at,
        )  # fmt: skip
        return Schedule.of(session.database.run(store, saved="the schedule was not stored"))

    def all(self) -> Sequence[Schedule]:
        """All schedules by name."""
        return [Schedule.of(row) for row in self._session.database.run(schedules.listing)]

    def remove(self, name: str) -> bool:
        """Remove a schedule; its executions stay. False when there is none of this name."""
        return self._session.database.run(partial(schedules.remove, name=name))

    def fire_due(self) -> int:
        """Submit what is due, each due time once, also while other processes do it. Returns how many executions."""
        count = 0
        with self._session.database.transaction(saved="no schedule was fired") as connection:
            for row in schedules.due(connection, most=MOST_AT_ONCE, but_zones=self._unknown_zones):
                count += self._fire(connection, row)
        return count

    def _fire(self, connection: Connection, row: ScheduleRow) -> bool:
        """Submit one due time, and move the schedule on. Returns whether something was submitted."""
        assert row.next_at is not None
        execution_id, error = None, None
        try:
            zone = time_zone(row.timezone)
        except ValueError:
            self._leave(connection, row)
            return False
        if row.missed == "skip" and row.now - row.next_at > LATE:
            error = f"missed at {row.next_at:%Y-%m-%d %H:%M} UTC"
        else:
            try:
                execution_id = self._submit(connection, row, row.next_at)
            except BackendUnavailable:
                raise
            except DspexError as failure:
                if failure.retryable:  # it stays due
                    return False
                # Its own fault, found before anything was stored: the others are fired.
                error = str(failure).split("\n")[0]
                log.warning("schedule %r submitted nothing at %s: %s", row.name, row.next_at.isoformat(), error)
        next_at = Cron.parse(row.cron).after(max(row.now, row.next_at), zone)
        schedules.fired(
            connection, row.name, due_at=row.next_at, next_at=next_at, execution_id=execution_id, error=error
        )
        return execution_id is not None

    def _leave(self, connection: Connection, row: ScheduleRow) -> None:
        """Leave a schedule due whose time zone is unknown here: its next due time cannot be computed."""
        self._unknown_zones.add(row.timezone)
        error = f"the gateway on {socket.gethostname()} has no data of the time zone {row.timezone}: update its tzdata"
        log.error("schedule %r stays due: %s", row.name, error)
        schedules.fired(connection, row.name, due_at=row.now, next_at=row.next_at, execution_id=None, error=error)

    def _submit(self, connection: Connection, row: ScheduleRow, due_at: datetime) -> UUID:
        self._session.catalogue.current(row.program, fresh=True)  # so that what was deployed meanwhile runs
        stored = self._submitter.submit(
            row.program,
            json.loads(row.inputs),
            idempotency_key=f"schedule:{row.name}:{due_at.astimezone(UTC).isoformat()}",
            connection=connection,
            stream=False,
            priority=row.priority,
            metadata=None if row.metadata is None else json.loads(row.metadata),
            tenant=row.tenant,
        )
        return UUID(str(stored["id"]))


def _faults(
    name: object, cron: str, timezone: str, missed: str, now: datetime
) -> tuple[list[FieldError], datetime | None]:
    """What is wrong with a schedule, and its first due time."""
    found, next_at = [], None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        found.append(FieldError("name", "1 to 100 of the characters A-Z a-z 0-9 _ . -", repr(name)[:80]))
    if missed not in MISSED:
        found.append(FieldError("missed", " or ".join(MISSED), repr(missed)))
    zone = None
    try:
        zone = time_zone(timezone)
    except ValueError as error:
        found.append(FieldError("timezone", str(error), repr(timezone)[:80]))
    try:
        next_at = Cron.parse(cron).after(now, zone or UTC)
        if next_at is None:
            found.append(FieldError("cron", "a time that comes", repr(cron)[:80]))
    except ValueError as error:
        found.append(FieldError("cron", str(error), repr(cron)[:80]))
    return found, next_at
