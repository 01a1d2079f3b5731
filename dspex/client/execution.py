"""Executions as a client reads them: a snapshot of the row, and what can be done with the execution."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self, cast
from uuid import UUID

from dspex.client.audit_trail import AuditTrail
from dspex.client.follow import StreamEvent, follow
from dspex.client.improvement.feedback import Feedback, entries_of, give_feedback
from dspex.client.model_call import ModelCall, ToolCall
from dspex.client.notebook.cards import execution_card
from dspex.client.result import Result, recorded_result
from dspex.client.session import Session
from dspex.client.submitter import Submitter
from dspex.errors import DspexError, ResultNotReady
from dspex.program.internal_programs import is_internal
from dspex.program.program import Program
from dspex.store.lifecycle import executions
from dspex.store.lifecycle.executions import EXTRA
from dspex.store.lifecycle.status import Status
from dspex.wait.blocking_driver import complete, iterate
from dspex.wait.completion import check_timeout, one_final
from dspex.wait.driver import Driver, Row
from dspex.wait.hints import POLL_SECONDS

__all__ = ["AsyncExecution", "Execution", "Metrics", "Waiting", "cause_code", "executed"]


#: A caller of :func:`executed` looks after its deadline once it was woken, which polls do in less than this time.
LONGEST_HOLD_SECONDS = 2 * POLL_SECONDS


@dataclass(frozen=True, slots=True)
class Metrics:
    """Time, tokens and cost of an execution. Times are in milliseconds, cost in US dollars (None: price unknown).

    ``execution_time_ms`` is the time of the last attempt, ``queue_time_ms`` the time from due to claimed. Calls that
    were replayed from the journal count in ``replayed_lm_calls`` only, so tokens and cost are counted once.
    ``cost_usd`` covers the calls whose price is known; ``unpriced_lm_calls`` is how many others there are.
    ``saved_usd`` is how much more ordinary calls would have cost than those that went through batch APIs. ``score`` is
    what the metric of an evaluation gave its outputs.
    """

    execution_time_ms: float = 0.0
    queue_time_ms: float = 0.0
    lm_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    replayed_lm_calls: int = 0
    unpriced_lm_calls: int = 0
    saved_usd: float = 0.0
    score: float | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Metrics:
        """The metrics in a stored mapping; unknown names in it are ignored."""
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in (stored or {}).items() if name in known})


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a parked execution waits for: ``reason`` is ``batch`` (of a provider), ``approval`` or ``child``."""

    reason: str
    since: datetime


class ExecutionSnapshot:
    """The row of an execution as it was last read. Its attributes query nothing."""

    def __init__(self, session: Session, row: Row) -> None:
        self._session = session
        self._row = row

    def __repr__(self) -> str:
        return f"<Execution {self.id} of {self.program}: {self._row['status']}>"

    def _repr_html_(self) -> str:
        return execution_card(self)

    @property
    def id(self) -> UUID:
        """A UUIDv7: ids sort by time of submission."""
        return cast("UUID", self._row["id"])

    @property
    def program(self) -> str:
        """The name of the program."""
        return str(self._row["program"])

    @property
    def version(self) -> str:
        """The version of the program it was submitted with."""
        return str(self._row["version"])

    @property
    def status(self) -> Status:
        """Its status at the last read."""
        return Status(self._row["status"])

    @property
    def _is_final(self) -> bool:
        return self._row["finished_at"] is not None

    @property
    def attempts(self) -> int:
        """How many attempts were begun; the audit trail has the events of each."""
        return int(self._row["attempt"])

    @property
    def error(self) -> DspexError | None:
        """The recorded failure, or None. After a retry: why the last attempt failed."""
        stored = self._row["error"]
        return None if stored is None else DspexError.from_dict(self._opened(stored, "error"))

    @property
    def shown_error(self) -> DspexError | None:
        """The recorded failure without sealed text, for logs and screens."""
        stored = self._row["error"]
        return None if stored is None else DspexError.from_dict(stored)

    @property
    def cause_code(self) -> str | None:
        """The code of the error that caused the failure: for spent attempts, of the last attempt's error.

        None without an error.
        """
        return None if self.shown_error is None else cause_code(self.shown_error)

    @property
    def internal(self) -> bool:
        """Whether it is DSPex's own: an execution of `dspex doctor` or `dspex bench`."""
        return is_internal(self.program)

    @property
    def metrics(self) -> Metrics:
        """Time, tokens and cost so far."""
        return Metrics.of(self._row["metrics"])

    @property
    def adapter_used(self) -> str | None:
        """The adapter that hosted the last attempt."""
        return cast("str | None", self._row["adapter_used"])

    @property
    def action_results(self) -> dict[str, Any]:
        """The results of the program's actions in the last attempt, by name; without a key no sealed ones."""
        return _without_extra(self._results)

    @property
    def extra(self) -> dict[str, Any]:
        """What a completed program gave besides its outputs, by name: the ``reasoning`` of ``chain_of_thought``, the
        ``trajectory`` of an agent, further values of a prediction. Empty where it is sealed and there is no key.

        Values that JSON cannot hold are left out, and the longest ones where together they are larger than 256 KiB.
        Nothing is kept of a program with ``record="none"``.
        """
        return dict(self._results.get(EXTRA, {}))

    @property
    def _results(self) -> dict[str, Any]:
        return self._opened(self._row["action_results"] or {}, "action_results")

    @property
    def shown_action_results(self) -> dict[str, Any]:
        """The results of actions without sealed values, for logs and screens."""
        return _without_extra(self._session.sealing.shown_whole(self._row["action_results"] or {}))

    @property
    def shown_extra(self) -> dict[str, Any]:
        """:attr:`extra` without sealed values, for logs and screens."""
        return dict(self._session.sealing.shown_whole(self._row["action_results"] or {}).get(EXTRA, {}))

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The submitter's own data; DSPex does not read it."""
        return cast("dict[str, Any] | None", self._row["metadata"])

    @property
    def tenant(self) -> str | None:
        """Whose it is; None when the submit named no tenant."""
        return cast("str | None", self._row.get("tenant"))

    @property
    def priority(self) -> int:
        """0 to 9; 0 runs first."""
        return int(self._row["priority"])

    @property
    def created_at(self) -> datetime:
        """When it was submitted."""
        return cast("datetime", self._row["created_at"])

    @property
    def _has_figures(self) -> bool:
        """Whether ``metrics`` has the times and calls of its last attempt: they are known once that has ended."""
        return self.attempts > 0 and self.status is not Status.RUNNING

    @property
    def _later(self) -> datetime | None:
        """The time before which it is not begun, while it is queued and that time is to come."""
        due = self._row.get("run_at") if self.status is Status.QUEUED else None
        return due if due is not None and due > datetime.now(UTC) else None

    @property
    def started_at(self) -> datetime | None:
        """When the last attempt began."""
        return cast("datetime | None", self._row["started_at"])

    @property
    def finished_at(self) -> datetime | None:
        """When it became final."""
        return cast("datetime | None", self._row["finished_at"])

    @property
    def waiting(self) -> Waiting | None:
        """What it waits for and since when, while its status is ``waiting``; None otherwise."""
        reason = self._row.get("waiting_for")
        return None if reason is None else Waiting(reason, self._row["waiting_since"])

    @property
    def parent_id(self) -> UUID | None:
        """The execution whose program made this one, for a child."""
        return cast("UUID | None", self._row.get("parent_id"))

    @property
    def deduplicated(self) -> bool:
        """Whether a submit with ``dedup`` returned this earlier execution in the place of a new one; of a row of a
        batch, whether another execution had equal inputs, whose outputs it takes over."""
        return bool(self._row.get("deduplicated", False)) or self._row.get("same_as") is not None

    @property
    def batch_id(self) -> UUID | None:
        """The id of its batch."""
        return cast("UUID | None", self._row.get("batch_id"))

    @property
    def batch_index(self) -> int | None:
        """The index of its row among the rows of its batch."""
        return cast("int | None", self._row.get("batch_index"))

    @property
    def trace_id(self) -> str | None:
        """The OpenTelemetry trace of the submit, 32 hex digits; None without one.

        The event ``traced`` of each attempt has the trace of the attempt.
        """
        stored: str | None = self._row.get("traceparent")
        return None if stored is None else stored.split("-")[1]

    def _opened(self, stored: Mapping[str, Any], column: str) -> dict[str, Any]:
        return self._session.sealing.open_whole(stored, f"{self.id}:{column}")

    async def _finish(
        self,
        driver: Driver,
        timeout: float | None,  # noqa: ASYNC109 - in the errors' text
        since: float | None = None,
    ) -> Result:
        """Wait, update the snapshot and return the result: see :meth:`Execution.result`. The wait began ``since`` then,
        by the monotonic clock, or now."""
        waited = 0.0 if since is None else time.monotonic() - since
        await self._settle(driver, timeout - waited if timeout else timeout)
        if self._is_final:
            if self._session.catalogue.has(self.program, self.version):  # nothing is waited for
                return recorded_result(self._session, self._row)
            return await driver.call(partial(recorded_result, self._session, self._row))
        if timeout == 0:
            raise ResultNotReady(f"execution {self.id} is {self.status}", execution_id=str(self.id))
        raise await driver.call(partial(self._session.timed_out, self._row, timeout))

    async def _settle(self, driver: Driver, timeout: float | None) -> None:  # noqa: ASYNC109 - it ends, and raises nothing
        """Wait, and update the snapshot, which is not final when ``timeout`` seconds have passed."""
        if not self._is_final:
            since = self._row.get("submitted_at")
            row = None if timeout == 0 else await one_final(driver, self.id, timeout, since=since)
            self._row = await driver.call(partial(self._session.row, self.id)) if row is None else row


def _without_extra(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if name != EXTRA}


class Execution(ExecutionSnapshot):
    """One execution: a snapshot of its row, and a handle on it.

    ``status``, ``error``, ``metrics`` and the other attributes are as of the last read: by the submit, by
    :meth:`refresh`, or by :meth:`result`. Only ``inputs`` (the program's signature, once), ``audit_trail``,
    ``calls``, ``tool_calls`` and ``feedback_entries`` query the database.
    """

    @property
    def inputs(self) -> dict[str, Any]:
        """The validated inputs. Sealed values are ``"<secret>"`` if the client has no key."""
        return self._session.inputs(self._row)

    @property
    def audit_trail(self) -> AuditTrail:
        """Its events in order of time, read from the database at each use."""
        return self._session.audit_trail(self.id)

    @property
    def calls(self) -> Sequence[ModelCall]:
        """The model calls that it paid for, in order of time, with their answers; read at each use."""
        return self._session.model_calls(self.id)

    @property
    def tool_calls(self) -> Sequence[ToolCall]:
        """The calls of tools that returned a result, in order of time; read at each use."""
        return self._session.tool_calls(self.id)

    def refresh(self) -> Self:
        """Read the row again, and return this execution. Raises ExecutionNotFound."""
        self._row = self._session.row(self.id)
        return self

    def result(self, timeout: float | None = None) -> Result:
        """Wait up to ``timeout`` seconds (None: no limit; 0: no wait) for the outputs, and update the snapshot.

        Sealed values are ``"<secret>"`` if the client has no key.

        Raises ExecutionFailed (its ``cause`` is the recorded error), ExecutionCancelled, ExecutionTimedOut when the
        wait is over (the execution goes on), ResultNotReady with ``timeout=0``, EncryptionError when the client lacks
        the key that sealed the outputs.
        """
        return complete(self._finish(self._session.driver, timeout))

    @property
    def feedback_entries(self) -> Sequence[Feedback]:
        """The feedback that was given on it, the oldest first; read at each use."""
        return entries_of(self._session, self._row)

    def feedback(
        self,
        score: float | None = None,
        outputs: Mapping[str, Any] | None = None,
        note: str | None = None,
        by: str | None = None,
    ) -> Feedback:
        """Append a judgement of this execution, which has to be final. Its result stays as it is.

        ``score``    how good the outputs are; metrics of DSPy use 0 to 1
        ``outputs``  corrected outputs, all or some of them: labels for a dataset
        ``note``     a comment
        ``by``       who judged

        It is in the audit trail. ``outputs`` and ``note`` are sealed if the program has secret fields. Raises
        ResultNotReady for an execution that is not final, ValidationError, ExecutionNotFound.
        """
        return give_feedback(self._session, self._row, score=score, outputs=outputs, note=note, by=by)

    def stream(self, *, after: str | None = None, timeout: float | None = None) -> Iterator[StreamEvent]:
        """Its events as they happen, until it is final: from the beginning, or ``after`` an event's cursor.

        For an execution submitted with ``stream=True``: each change of its status, the text of each output field as
        the model writes it, and each complete field. For any other: changes of status, and the fields at the end.
        If Redis is unreachable or loses the stream, the events go on without gaps or repeats, and the recorded outputs
        come in any case. See :class:`StreamEvent`.

        Raises ExecutionTimedOut after ``timeout`` seconds (the execution goes on), ValidationError for an invalid
        cursor. Failure and cancellation are events.
        """
        return iterate(follow(self._session.driver, self._session, self.id, after, timeout))

    def cancel(self) -> bool:
        """Cancel it: see :meth:`dspex.Client.cancel`. False when it had completed or failed already."""
        return self._session.control.cancel(self.id)


class AsyncExecution(ExecutionSnapshot):
    """:class:`Execution` with ``await``: also for ``inputs``, ``audit_trail``, ``calls`` and ``tool_calls``, as
    in ``await execution.inputs``."""

    @property
    def inputs(self) -> Awaitable[dict[str, Any]]:
        """As :attr:`Execution.inputs`."""
        return self._session.driver.call(partial(self._session.inputs, self._row))

    @property
    def audit_trail(self) -> Awaitable[AuditTrail]:
        """As :attr:`Execution.audit_trail`."""
        return self._session.driver.call(partial(self._session.audit_trail, self.id))

    @property
    def calls(self) -> Awaitable[Sequence[ModelCall]]:
        """As :attr:`Execution.calls`."""
        return self._session.driver.call(partial(self._session.model_calls, self.id))

    @property
    def tool_calls(self) -> Awaitable[Sequence[ToolCall]]:
        """As :attr:`Execution.tool_calls`."""
        return self._session.driver.call(partial(self._session.tool_calls, self.id))

    @property
    def feedback_entries(self) -> Awaitable[Sequence[Feedback]]:
        """As :attr:`Execution.feedback_entries`."""
        return self._session.driver.call(partial(entries_of, self._session, self._row))

    async def feedback(
        self,
        score: float | None = None,
        outputs: Mapping[str, Any] | None = None,
        note: str | None = None,
        by: str | None = None,
    ) -> Feedback:
        """As :meth:`Execution.feedback`."""
        give = partial(give_feedback, self._session, self._row, score=score, outputs=outputs, note=note, by=by)
        return await self._session.driver.call(give)

    async def refresh(self) -> Self:
        """As :meth:`Execution.refresh`."""
        self._row = await self._session.driver.call(partial(self._session.row, self.id))
        return self

    async def result(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - as in Execution.result
        """As :meth:`Execution.result`."""
        return await self._finish(self._session.driver, timeout)

    async def stream(
        self,
        *,
        after: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Execution.stream
    ) -> AsyncGenerator[StreamEvent, None]:
        """As :meth:`Execution.stream`."""
        async with aclosing(follow(self._session.driver, self._session, self.id, after, timeout)) as events:
            async for event in events:
                yield event

    async def cancel(self) -> bool:
        """As :meth:`Execution.cancel`."""
        return await self._session.driver.call(partial(self._session.control.cancel, self.id))


async def executed(
    session: Session,
    submitter: Submitter,
    program: str | Program,
    inputs: Mapping[str, Any],
    timeout: float | None,  # noqa: ASYNC109 - as in Client.execute
    options: Mapping[str, Any],
) -> tuple[UUID, Result] | None:
    """The id and the result of a usual submit: see :meth:`dspex.Client.execute`. None when it has to be submitted
    otherwise."""
    check_timeout(timeout)
    if timeout is not None and timeout <= LONGEST_HOLD_SECONDS:
        return None
    submission = submitter.usual(program, inputs, options)
    if submission is None:
        return None
    row, since = await submitter.submit_and_wait(submission)
    if row is None:
        row = await session.driver.call(partial(session.run, partial(executions.find, id=submission.id), None))
    if row is None:
        return None
    return submission.id, await ExecutionSnapshot(session, row)._finish(session.driver, timeout, since)


def cause_code(error: DspexError) -> str:
    """The code of the error that caused a failure: for spent attempts, of the last attempt's error."""
    cause = error.details.get("cause")
    return str((isinstance(cause, Mapping) and cause.get("code")) or error.code)
