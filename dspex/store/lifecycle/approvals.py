"""Approvals: calls that executions wait for until somebody decides.

A decision is written into the row of the call, and the execution goes on in the same transaction, with the decision in
its audit trail. The first decision counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from dspex.store.audit_chain import encode_events
from dspex.store.lifecycle.parked import resume

__all__ = ["Decided", "PendingCall", "call_id", "decide", "pending"]

#: The first bytes of its hash name a call within its execution.
_HASH_BYTES = 8

_PENDING = """
SELECT p.execution_id, e.program, e.version, p.request_hash, p.occurrence, p.subject, p.request::text, p.parked_at,
    p.expires_at
FROM dspex.parked_calls p JOIN dspex.executions e ON e.id = p.execution_id
WHERE p.kind = 'approval' AND p.decision IS NULL AND e.status || '' = 'waiting' AND p.attempt = e.attempt
    AND (%(program)s::text IS NULL OR e.program = %(program)s)
    AND (%(execution_id)s::uuid IS NULL OR e.id = %(execution_id)s)
ORDER BY p.parked_at LIMIT %(most)s
"""
_LOCK = "SELECT status FROM dspex.executions WHERE id = %(execution_id)s FOR UPDATE"
_FIND = """
SELECT request_hash, occurrence, subject, decision FROM dspex.parked_calls
WHERE execution_id = %(execution_id)s AND kind = 'approval'
    AND encode(substr(request_hash, 1, %(bytes)s), 'hex') || '-' || occurrence = %(call_id)s
"""
_DECIDE = """
UPDATE dspex.parked_calls SET decision = %(decision)s::json
WHERE execution_id = %(execution_id)s AND request_hash = %(request_hash)s AND occurrence = %(occurrence)s
    AND decision IS NULL
RETURNING execution_id
"""


class PendingCall(NamedTuple):
    """A call that waits for a decision. ``request`` is JSON text: the arguments, sealed where inputs are."""

    execution_id: UUID
    program: str
    version: str
    request_hash: bytes
    occurrence: int
    tool: str
    request: str
    parked_at: datetime
    expires_at: datetime | None

    @property
    def call_id(self) -> str:
        return call_id(self.request_hash, self.occurrence)


class Decided(NamedTuple):
    """The result of a decision: ``first`` is False when somebody else had decided, as ``decision`` says."""

    first: bool
    decision: Mapping[str, Any]


def call_id(request_hash: bytes, occurrence: int) -> str:
    """The name of a call within its execution."""
    return f"{bytes(request_hash)[:_HASH_BYTES].hex()}-{occurrence}"


def pending(
    connection: Connection, *, program: str | None = None, execution_id: UUID | None = None, most: int = 100
) -> list[PendingCall]:
    """The calls that wait for a decision, those that have waited longest first."""
    given = {"program": program, "execution_id": execution_id, "most": most}
    return [PendingCall(*row) for row in connection.exec_driver_sql(_PENDING, given)]


def decide(connection: Connection, execution_id: UUID, call: str, decision: Mapping[str, Any]) -> Decided | None:
    """Decide about a call, and let its execution go on. Needs a transaction. None when there is no such call.

    ``decision`` has ``approved``, ``by``, ``at`` and perhaps ``note``. Its note is not put into the audit trail: it may
    quote an input.
    """
    connection.exec_driver_sql(_LOCK, {"execution_id": execution_id})
    given = {"execution_id": execution_id, "call_id": call, "bytes": _HASH_BYTES}
    found = connection.exec_driver_sql(_FIND, given).one_or_none()
    if found is None:
        return None
    where = {"execution_id": execution_id, "request_hash": found.request_hash, "occurrence": found.occurrence}
    made = connection.exec_driver_sql(_DECIDE, {**where, "decision": json.dumps(decision)}).one_or_none()
    if made is None:
        return Decided(False, found.decision)
    noted = {"tool": found.subject, "call": call, "by": decision["by"]}
    kind = "approved" if decision["approved"] else "rejected"
    event = encode_events([{"kind": kind, "data": noted}])[1:-1]
    resume(connection, [execution_id], at_once=True, event=event)
    return Decided(True, decision)
