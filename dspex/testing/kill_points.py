"""Kills the worker of an execution at a chosen moment."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dspex.store import workers
from dspex.store.lifecycle.status import Status
from dspex.testing.model_double import calls_under_way

if TYPE_CHECKING:
    from dspex.client.execution import Execution

__all__ = ["kill_during"]

EVERY_SECONDS = 0.01


def kill_during(execution: Execution, moment: str, *, timeout: float = 30.0) -> int:
    """Kill the worker process of an execution with SIGKILL, once the execution has reached a moment.

    ``moment`` is ``"claimed"``; ``"lm_call"``, while a :class:`ModelDouble` has not answered its call (give it a
    ``delay``); or any other kind of audit event that an attempt records while it runs. Returns the id of the process.
    Raises TimeoutError when the moment does not come, ValueError when the execution ended before.
    """
    deadline = time.monotonic() + timeout
    reached = _MOMENTS.get(moment) or (lambda: any(event.kind == moment for event in execution.audit_trail))
    while True:
        execution.refresh()
        if execution.status.is_final:
            raise ValueError(f"execution {execution.id} was {execution.status} before {moment!r}")
        if execution.status is Status.RUNNING and reached() and (pid := _worker_pid(execution)):
            os.kill(pid, signal.SIGKILL)
            return pid
        if time.monotonic() > deadline:
            raise TimeoutError(f"execution {execution.id} did not reach {moment!r} within {timeout:g} s")
        time.sleep(EVERY_SECONDS)


def _worker_pid(execution: Execution) -> int | None:
    """The process that claimed the execution last, if it is on this machine."""
    claims = [event.data["worker"] for event in execution.audit_trail if event.kind == "claimed"]
    live = execution._session.database.run(workers.listing)
    found = [row for row in live if claims and str(row["id"]) == claims[-1] and row["host"] == socket.gethostname()]
    return int(found[0]["pid"]) if found else None


_MOMENTS: dict[str, Callable[[], bool]] = {
    "claimed": lambda: True,
    "lm_call": lambda: calls_under_way() > 0,
}
