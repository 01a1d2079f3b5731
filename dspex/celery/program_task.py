"""A program as a task of a Celery application that is not DSPex's own, for its canvases.

The task submits an execution and returns its outputs. While the execution runs, the task holds no slot of the user's
worker: it is retried until the execution is final. The id of the task is the idempotency key, so a task that Celery
delivers again, or that its worker loses, gets the same execution.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspex.client.client import Client

if TYPE_CHECKING:
    from celery import Celery, Task

__all__ = ["task"]

#: Seconds until the second look at an execution, and so on; the last is repeated.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

_lock = threading.Lock()
_client: Client | None = None


def task(program: str, *, app: Celery | None = None, client: Client | None = None) -> Task:
    """The task that runs a deployed program, registered in ``app`` (by default the current application).

    ::

        triage = dspex.celery.task("triage")
        chain(triage.s(ticket="I paid twice"), file_ticket.s()).delay()

    Inputs are keyword arguments; a mapping as the only positional argument, as a chain hands it over, adds to them. The
    result is a dictionary with the outputs. The task fails with the error of the execution, ExecutionFailed or
    ExecutionCancelled, and with ValidationError for inputs that do not fit. ``client`` is by default one of the
    process, with the settings of its environment.
    """
    from celery import current_app

    def run(self: Task, _given: Mapping[str, Any] | None = None, **inputs: Any) -> Any:
        return _outputs(client or _process_client(), program, {**(_given or {}), **inputs}, self)

    # Celery registers a name once: the same program again is the same task.
    return (app or current_app).task(run, name=f"dspex.program.{program}", bind=True, max_retries=None, acks_late=True)


def _outputs(client: Client, program: str, inputs: Mapping[str, Any], task: Task) -> Any:
    """One look at the execution of a task: submit it if it is new, and return its outputs if it is final."""
    execution = client.submit(program, inputs, idempotency_key=f"celery:{task.request.id}")
    if not execution.status.is_final:
        raise task.retry(countdown=WAITS[min(task.request.retries, len(WAITS) - 1)])
    values = dict(execution.result(0))
    signature = client.program(program, execution.version).signature
    return json.loads(signature.encode("outputs", values))


def _process_client() -> Client:
    """The client of this process; a forked child of a worker gets connections of its own."""
    global _client  # noqa: PLW0603
    with _lock:
        _client = _client or Client()
        return _client
