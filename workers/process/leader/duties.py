"""Duties: what the pump's leader does again and again. They do not wait for each other.

A duty that fails is logged, counted and done again; the next one is done all the same. Executions that Postgres refuses
to change are set aside, and tried again later.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dspex.errors import BackendUnavailable, ConfigurationError, SchemaOutdated, ValidationError
from dspex.store.lifecycle.set_statements import RowFault, row_fault
from workers.observe.metrics import DUTY_FAILURES, SET_ASIDE

__all__ = ["Duties", "Duty", "SetAside"]

log = logging.getLogger("dspex.workers")

#: A duty that failed is done again after this time, or its interval if that is longer.
RETRY_SECONDS = 1.0
#: An execution that Postgres refused to change is tried again after this time.
ASIDE_SECONDS = 60.0
#: So many of them are set aside, and so many are reported by id.
MOST_ASIDE, MOST_REPORTED = 1000, 10
#: What Postgres or its users' rights refuse. Other errors are bugs, and end the worker.
_REFUSED = (SQLAlchemyError, ConfigurationError, SchemaOutdated, ValidationError)


class Duty:
    """``work`` is done every ``interval_seconds``, or after as many seconds as it returns."""

    def __init__(self, name: str, work: Callable[[], float | None], interval_seconds: float = 0.0) -> None:
        self.name = name
        self.failure: str | None = None
        self._work = work
        self._interval_seconds = interval_seconds
        self._next_at = -math.inf

    def do(self) -> None:
        """Do it if it is due. Raises BackendUnavailable when the connection was lost."""
        if time.monotonic() < self._next_at:
            return
        pause: float | None = max(self._interval_seconds, RETRY_SECONDS)
        try:
            pause = self._work()
            self._note_success()
        except BackendUnavailable as error:
            self._note_failure(error)
            if "sqlstate" not in error.details:  # otherwise Postgres refused this duty alone
                raise
        except _REFUSED as error:
            self._note_failure(error)
        finally:
            self._next_at = time.monotonic() + (self._interval_seconds if pause is None else pause)

    def _note_success(self) -> None:
        if self.failure is not None:
            log.warning("the duty %s of the pump works again", self.name)
        self.failure = None

    def _note_failure(self, error: Exception) -> None:
        DUTY_FAILURES.labels(self.name).inc()
        reason = _reason(error)
        if reason != self.failure:
            log.error("the duty %s of the pump failed, and is done again: %s", self.name, reason)
        self.failure = reason


class Duties:
    """The duties in their order."""

    def __init__(self, *duties: Duty) -> None:
        self._duties = duties

    def do(self) -> None:
        """Do each that is due. Raises BackendUnavailable at the end, if a duty did."""
        unavailable: BackendUnavailable | None = None
        for duty in self._duties:
            try:
                duty.do()
            except BackendUnavailable as error:
                unavailable = unavailable or error
        if unavailable is not None:
            raise unavailable

    def failures(self) -> Mapping[str, str]:
        """The duties that failed when they were last done, and why."""
        return {duty.name: duty.failure for duty in self._duties if duty.failure is not None}


class SetAside:
    """Executions that Postgres refused to change, for a while."""

    def __init__(self) -> None:
        self._faults: dict[UUID, tuple[str, float]] = {}

    def add(self, doing: str, faults: Iterable[RowFault[UUID]]) -> None:
        """Set these aside; ``doing`` names what was refused."""
        for fault in faults:
            log.error(
                "%s: Postgres refuses to %s it: %s. It is set aside and tried again in %g s; see `dspex audit verify`",
                fault.row, doing, fault.reason, ASIDE_SECONDS,
            )  # fmt: skip
            self._faults.pop(fault.row, None)
            if len(self._faults) < MOST_ASIDE:
                self._faults[fault.row] = f"{doing}: {fault.reason}", time.monotonic() + ASIDE_SECONDS
        SET_ASIDE.set(len(self._faults))

    def ids(self) -> Sequence[UUID]:
        """Those not to be tried now. The others are tried again, and are set aside again if they are refused."""
        now = time.monotonic()
        self._faults = {id: fault for id, fault in self._faults.items() if fault[1] > now}
        SET_ASIDE.set(len(self._faults))
        return list(self._faults)

    def report(self) -> Mapping[str, Any]:
        """Some of them with what was refused and why, and how many there are."""
        some = dict(list(self._faults.items())[:MOST_REPORTED])
        return {"set_aside": len(self._faults), "executions": {str(id): why for id, (why, _) in some.items()}}


def _reason(error: Exception) -> str:
    """The error in a line, without values of rows."""
    if isinstance(error, DBAPIError):
        return row_fault(error) or str(error.orig).split("\n")[0]
    return str(error).split("\n")[0]
