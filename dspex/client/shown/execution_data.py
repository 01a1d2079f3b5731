"""An execution as JSON-friendly data: what the command line and the HTTP gateway show of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dspex.client.execution import ExecutionSnapshot
from dspex.client.session import Session
from dspex.wait.driver import Row

__all__ = ["execution_data", "shown_values"]


def execution_data(execution: ExecutionSnapshot) -> dict[str, Any]:
    """An execution without its inputs and result."""
    error, metrics = execution.shown_error, execution.metrics
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
        "metrics": {name: getattr(metrics, name) for name in metrics.__slots__},
        "metadata": execution.metadata,
        "action_results": execution.shown_action_results,
        "trace_id": execution.trace_id,
        "batch_id": execution.batch_id and str(execution.batch_id),
        "parent_id": execution.parent_id and str(execution.parent_id),
        "tenant": execution.tenant,
        "internal": execution.internal,
    }


def shown_values(session: Session, row: Row) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The inputs and the result in a row as JSON values: secret fields, and what no key here opens, are ``<secret>``.

    The result is None until the execution has completed.
    """
    signature, sealing, id = session.signature(row), session.sealing, row["id"]
    inputs = sealing.shown(signature, "inputs", row["inputs"], id)
    stored = row.get("result")
    return inputs, None if stored is None else sealing.shown(signature, "outputs", stored, id)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
