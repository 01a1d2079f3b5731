"""A message of Celery's: the executions it carries, Celery's callbacks for it, and the events that Flower shows."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from uuid import UUID

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated
from celery.exceptions import Ignore, Retry

from dspex.errors import MessageRefused
from dspex.publish.broker import TASK, is_bulk, step
from dspex.publish.envelope import unpack
from dspex.store.lifecycle.status import Status
from workers.attempt.executor import OnEnd, OnStart, Outcome, Received

__all__ = ["Message", "read_message"]

log = logging.getLogger("dspex.workers")

CONTENT_TYPE = "application/json"
#: Several times the size of the largest envelope.
BODY_BYTES_MOST = 256 * 1024
#: Celery's main thread is notified of a message's start within this time, together with its end if that is sooner; and
#: of the end within this time: after the loop has published it, and before callers have submitted more.
ACCEPTED_SECONDS, ENDED_SECONDS = 0.05, 0.004
#: The priority step of a message without a priority.
LAST_STEP = 9


class Pool(Protocol):
    """The part of the pool that a message uses."""

    @property
    def sends_events(self) -> bool: ...

    def send_event(self, event: str, id: UUID, **fields: Any) -> None: ...

    def count_executions(self, name: str, more: int) -> None: ...

    def on_main(self, call: Callable[..., Any], *args: Any) -> None: ...

    def on_main_within(self, seconds: float, call: Callable[..., Any], *args: Any) -> None: ...

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None: ...

    def refuse(self, reason: str) -> None: ...


class Message:
    """A message under way: the executions it carries, and Celery's callbacks for it.

    While events are sent, Celery's main thread is called at each start and end; otherwise for the message alone, and a
    moment later.
    """

    def __init__(
        self,
        pool: Pool,
        task_id: str,
        request: Mapping[str, Any],
        body: bytes | str,
        content_type: str,
        callback: Callable[..., Any],
        accept_callback: Callable[..., Any],
    ) -> None:
        self._pool = pool
        self._task_id = task_id.replace("-", "")
        self._name = str(request.get("shadow") or TASK)
        self._priority, self._bulk = _priority(request)
        self._alone = request.get("alone") is True
        self._body = body
        self._content_type = content_type
        self._callback = callback
        self._accept_callback = accept_callback
        self._left = 0
        self._begun = 0
        self._outcome = Outcome(None)

    def run(self) -> None:
        try:
            ids = read_message(self._body, self._content_type)
        except MessageRefused as error:
            reason = error.details["reason"]
            log.error("refused a message (%s): %s", reason, error)  # noqa: TRY400 - a traceback adds nothing
            self._pool.refuse(reason)
            self._finish(Outcome(Status.FAILED, error))
            return
        self._left = len(ids)
        for id in ids if self._pool.sends_events else ():
            if not self._is_task_id(id):
                self._pool.send_event("task-received", id, name=self._name, args=str(id), kwargs="{}", retries=0)
        self._pool.submit(
            Received(ids, self._name.removeprefix(f"{TASK} "), self._priority, self._alone, self._bulk),
            self._on_start,
            self._on_end,
        )

    def _is_task_id(self, id: UUID) -> bool:
        """Whether the message's own id is this execution's: then Celery itself sends its events."""
        return id.hex == self._task_id

    # On the loop's thread.

    def _on_start(self, id: UUID) -> None:
        self._begun += 1
        if self._begun == 1:
            self._notify(ACCEPTED_SECONDS, self._accept_callback, os.getpid(), time.monotonic())
        if self._pool.sends_events and not self._is_task_id(id):
            self._pool.on_main(self._pool.send_event, "task-started", id)

    def _on_end(self, id: UUID, outcome: Outcome) -> None:
        self._left -= 1
        if self._is_task_id(id):
            self._outcome = outcome
        elif self._pool.sends_events and outcome.status is not None:
            self._pool.on_main(self._send_end_event, id, outcome)
        if self._left == 0:
            self._notify(ENDED_SECONDS, self._finish, self._outcome)

    def _notify(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        """Have Celery's main thread make this call within so many seconds; at once while events, which have times, are
        sent."""
        if self._pool.sends_events:
            self._pool.on_main(call, *args)
        else:
            self._pool.on_main_within(seconds, call, *args)

    # On the main thread.

    def _send_end_event(self, id: UUID, outcome: Outcome) -> None:
        event, fields = _ending(outcome)
        self._pool.send_event(event, id, **fields)

    def _finish(self, outcome: Outcome) -> None:
        if self._begun > 1:  # Celery has counted the message as one
            self._pool.count_executions(self._name, self._begun - 1)
        if outcome.status is Status.COMPLETED:
            self._callback((0, "completed", outcome.runtime_seconds))
        else:
            self._callback((1, _exception_info(outcome), outcome.runtime_seconds))


def _priority(request: Mapping[str, Any]) -> tuple[int, bool]:
    """The priority step of a message, and whether it is of a backlog."""
    lane = (request.get("delivery_info") or {}).get("priority")
    return (step(lane), is_bulk(lane)) if isinstance(lane, int) else (LAST_STEP, True)


def read_message(body: bytes | str, content_type: str) -> list[UUID]:
    """The ids of the executions in a message. Raises MessageRefused, with the reason, for anything else."""
    if content_type != CONTENT_TYPE:
        raise MessageRefused(f"it is not {CONTENT_TYPE}", reason="content_type")
    if len(body) > BODY_BYTES_MOST:
        raise MessageRefused(f"its body has {len(body)} bytes, more than {BODY_BYTES_MOST}", reason="size")
    try:
        (envelope,), _, _ = json.loads(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageRefused(f"the body is not a task's: {type(error).__name__}", reason="body") from None
    return unpack(envelope)


def _ending(outcome: Outcome) -> tuple[str, dict[str, Any]]:
    """The event for this outcome, and its fields."""
    code = outcome.error.code if outcome.error else ""
    if outcome.status is Status.COMPLETED:
        return "task-succeeded", {"result": "completed", "runtime": outcome.runtime_seconds}
    if outcome.status is Status.QUEUED:
        return "task-retried", {"exception": code, "traceback": ""}
    if outcome.status is Status.WAITING:
        return "task-retried", {"exception": f"waits for {outcome.waiting_for}", "traceback": ""}
    if outcome.status is Status.CANCELLED:
        return "task-revoked", {"terminated": True, "signum": None, "expired": False}
    return "task-failed", {"exception": code, "traceback": ""}


def _exception_info(outcome: Outcome) -> ExceptionInfo:
    """The failure as Celery's events show it: a code, never a text that may hold inputs or outputs."""
    code = outcome.error.code if outcome.error else ""
    try:
        if outcome.status is None:
            raise Ignore
        if outcome.status is Status.QUEUED:
            raise Retry(exc=_Failed(code))
        if outcome.status is Status.WAITING:
            raise Retry(exc=_Failed(f"waits for {outcome.waiting_for}"))
        if outcome.status is Status.CANCELLED:
            raise Terminated(code)
        raise _Failed(code or str(outcome.status))
    except Exception as error:
        info = ExceptionInfo()
        info.exception, info.traceback = error, ""  # a traceback would show this function alone
        return info


class _Failed(Exception):
    """A failure as Flower shows it: its code."""

    def __repr__(self) -> str:
        return str(self)
