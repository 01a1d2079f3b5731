"""An execution as JSON, and the colour of each status."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dspex.client.execution import Execution
from dspex.store.lifecycle.status import Status

__all__ = ["STATUS_STYLES", "execution_data"]

STATUS_STYLES = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.WAITING: "blue",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
}


def execution_data(execution: Execution) -> dict[str, Any]:
    """An execution as ``--json`` prints it, without its inputs and result."""
    error = execution.shown_error
    return {
        "id": str(execution.id),
        "program": execution.program,
        "version": execution.version,
        "status": str(execution.status),
        "waiting_for": execution.waiting and execution.waiting.reason,
        "waiting_since": _iso(execution.waiting.since if execution.waiting else None),
        "attempts": execution.attempts,
        "priority": execution.priority,
        "created_at": _iso(execution.created_at),
        "started_at": _iso(execution.started_at),
        "finished_at": _iso(execution.finished_at),
        "adapter_used": execution.adapter_used,
        "cause_code": execution.cause_code,
        "error": None if error is None else error.as_dict(),
        "metrics": {name: getattr(execution.metrics, name) for name in execution.metrics.__slots__},
        "metadata": execution.metadata,
        "action_results": execution.shown_action_results,
        "trace_id": execution.trace_id,
        "batch_id": execution.batch_id and str(execution.batch_id),
        "parent_id": execution.parent_id and str(execution.parent_id),
        "internal": execution.internal,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
