"""Celery's remote control (``celery -A workers.app control …``), as it applies to executions.

An execution is its row in Postgres, so revoking one cancels the row, as ``dspex cancel`` does. Celery itself keeps a
list of revoked ids in each worker's memory and drops their messages, which would leave the row queued for ever. Time
limits and rate limits are replaced as well: by the execution's own deadline, and by the program's ``Limits``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from celery.worker import control
from celery.worker.request import Request
from celery.worker.state import revoked

from dspex.errors import BackendUnavailable
from dspex.publish.broker import TASK

__all__ = ["ExecutionRequest", "register"]

log = logging.getLogger("dspex.workers")

_celerys_time_limit = control.time_limit
_celerys_add_consumer = control.add_consumer


class ExecutionRequest(Request):  # type: ignore[misc]
    """The request of a message with executions. Their rows alone decide what happens to them."""

    def revoked(self) -> bool:
        """False: a message always reaches the pool, where a cancelled execution cannot be claimed."""
        return False

    def terminate(self, pool: Any, signal: str | int | None = None) -> None:
        """Cancel the message's first execution, whose id is the task's."""
        pool.revoke([UUID(self.id)], running=True)

    def cancel(self, pool: Any, signal: str | int | None = None, emit_retry: bool = True) -> None:
        """Do nothing: a cold shutdown hands executions back, and a lost connection to Redis does not affect them."""


def revoke(state: Any, task_id: str | Sequence[str], terminate: bool = False, **_: object) -> dict[str, str]:
    """Cancel queued executions; with ``terminate``, running ones as well."""
    wanted = [task_id] if isinstance(task_id, str) else list(task_id or ())
    ids = [id for id in map(_uuid, wanted) if id is not None]
    revoked.update(wanted)  # for `inspect revoked`, and for tasks that are not executions
    try:
        state.consumer.pool.revoke(ids, running=bool(terminate))
    except BackendUnavailable as error:
        log.error("nothing is revoked: %s", error)  # noqa: TRY400 - the message is complete
        return {"error": f"nothing is revoked: {error}"}
    which = "if they are queued or run" if terminate else "if they are queued; terminate=True also cancels what runs"
    return {"ok": f"executions {', '.join(map(str, ids))} are cancelled {which}"}


def terminate(state: Any, signal: str, task_id: str | Sequence[str], **_: object) -> dict[str, str]:
    """Cancel executions, queued or running. The signal is for Celery's own pools and is not sent."""
    return revoke(state, task_id, terminate=True)


def time_limit(state: Any, task_name: str | None = None, **limits: Any) -> Any:
    """Set the time limit of a task that is not an execution."""
    if task_name == TASK:
        return {"error": "an execution ends at its own deadline: set Program(timeout=…) or submit(timeout=…)"}
    return _celerys_time_limit(state, task_name=task_name, **limits)


def rate_limit(state: Any, task_name: str, rate_limit: str, **_: object) -> Any:
    """Refuse: rates belong to programs."""
    return {"error": "rates are limited by program, across all workers: deploy it with Limits(per_minute=…)"}


def add_consumer(state: Any, queue: str, *place: Any, **options: Any) -> Any:
    """Consume one of the worker's own queues again. Refuse others, which its user of Redis may not be allowed to read:
    then it would take no work at all until it is restarted."""
    own = [known.name for known in state.app.conf.task_queues]
    if queue not in own:
        return {"error": f"a worker consumes the queues {' and '.join(own)} only"}
    return _celerys_add_consumer(state, queue, *place, **options)


def register() -> None:
    """Replace Celery's own commands with these."""
    control.Panel.data.update(
        revoke=revoke, terminate=terminate, time_limit=time_limit, rate_limit=rate_limit, add_consumer=add_consumer
    )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
