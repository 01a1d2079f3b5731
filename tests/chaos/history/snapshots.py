"""Executions as the history holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspex
from dspex.client.audit_trail import AuditTrail
from dspex.client.execution import AsyncExecution
from dspex.client.follow import StreamEvent

__all__ = ["async_snapshot", "event_of", "snapshot", "trail_of"]

#: What the trail of an execution is judged by; model calls and the like are left out.
_KEPT = ("worker", "pid", "by", "code", "reason", "last_heartbeat_at", "found_at")


def snapshot(execution: dspex.Execution) -> dict[str, Any]:
    """An execution as of its last read."""
    answer = execution.result(0)["answer"] if execution.status == "completed" else None
    return _snapshot(execution, answer)


async def async_snapshot(execution: AsyncExecution) -> dict[str, Any]:
    """:func:`snapshot` of the asynchronous client."""
    answer = (await execution.result(0))["answer"] if execution.status == "completed" else None
    return _snapshot(execution, answer)


def event_of(event: StreamEvent) -> dict[str, Any]:
    """An event of a stream."""
    value = event.value["answer"] if event.kind == "done" else event.value
    return {
        "kind": event.kind, "attempt": event.attempt, "status": event.status, "field": event.field,
        "text": event.text, "value": value,
    }  # fmt: skip


def trail_of(trail: AuditTrail) -> dict[str, Any]:
    """An audit trail: its events, and what verification finds."""
    events = [{"kind": e.kind, "attempt": e.attempt, "data": _kept(e.data)} for e in trail]
    return {"faults": list(trail.verify().faults), "events": events}


def _snapshot(execution: dspex.Execution | AsyncExecution, answer: str | None) -> dict[str, Any]:
    error, finished_at = execution.error, execution.finished_at
    return {
        "id": str(execution.id),
        "program": execution.program,
        "version": execution.version,
        "status": str(execution.status),
        "attempts": execution.attempts,
        "answer": answer,
        "error": None if error is None else error.code,
        "seconds": None if finished_at is None else (finished_at - execution.created_at).total_seconds(),
    }


def _kept(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in _KEPT if name in data}
