"""Approvals: calls that executions wait for until somebody decides.

A decision is written into the row of the call, and the execution goes on in the same transaction, with the decision in
its audit trail. The first decision counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from dspex.store.audit_chain import encode_events
from dspex.store.lifecycle.lm_calls import DECISION
from dspex.store.lifecycle.parked import resume
from dspex.store.lifecycle.status import Status

__all__ = ["CallSelection", "Decided", "PendingCall", "Place", "call_id", "count", "decide", "is_call_id", "notes",
           "pending"]  # fmt: skip

#: The first bytes of its hash name a call within its execution.
_HASH_BYTES = 8

_CALL_ID = re.compile(r"[0-9a-f]{16}-[0-9]{1,9}")

#: The name of a call, as :func:`call_id` makes it.
_NAME = f"encode(substr(request_hash, 1, {_HASH_BYTES}), 'hex') || '-' || occurrence"
_WAITING = f"""
FROM (SELECT *, {_NAME} AS call FROM dspex.parked_calls WHERE kind = 'approval' AND decision IS NULL) p
JOIN dspex.executions e ON e.id = p.execution_id
WHERE e.status || '' = 'waiting' AND p.attempt = e.attempt
    AND (%(program)s::text IS NULL OR e.program = %(program)s)
    AND (%(programs)s::text[] IS NULL OR e.program = ANY(%(programs)s))
    AND (%(tenant)s::text IS NULL OR e.tenant = %(tenant)s)
    AND (%(execution_id)s::uuid IS NULL OR e.id = %(execution_id)s)
    AND (%(after_at)s::timestamptz IS NULL
        OR (p.parked_at, p.execution_id, p.call) > (%(after_at)s, %(after_id)s::uuid, %(after_call)s::text))
"""  # noqa: S608
_PENDING = f"""
SELECT p.execution_id, e.program, e.version, p.request_hash, p.occurrence, p.subject, p.request::text, p.parked_at,
    p.expires_at, e.tenant
{_WAITING} ORDER BY p.parked_at, p.execution_id, p.call LIMIT %(most)s
"""
_COUNT = f"SELECT count(*) FROM (SELECT {_WAITING} LIMIT %(most)s) found"  # noqa: S608
_NOTES = f"""
SELECT {_NAME}, response ->> 'note' FROM dspex.lm_calls
WHERE execution_id = %(execution_id)s AND starts_with(model, '{DECISION}') AND response ->> 'note' IS NOT NULL
"""  # noqa: S608
_LOCK = "SELECT status FROM dspex.executions WHERE id = %(execution_id)s FOR UPDATE"
_FIND = f"""
SELECT request_hash, occurrence, subject, decision FROM dspex.parked_calls
WHERE execution_id = %(execution_id)s AND kind = 'approval'
    AND {_NAME} = %(call_id)s
"""  # noqa: S608
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
    tenant: str | None

    @property
    def call_id(self) -> str:
        return call_id(self.request_hash, self.occurrence)


class Place(NamedTuple):
    """The place of a call in the order of :func:`pending`."""

    parked_at: datetime
    execution_id: UUID
    call_id: str


@dataclass(frozen=True, slots=True)
class CallSelection:
    """Which calls; None does not limit them. ``programs`` are those that the reader may see."""

    program: str | None = None
    execution_id: UUID | None = None
    tenant: str | None = None
    programs: Sequence[str] | None = None
    after: Place | None = None

    def parameters(self, most: int) -> Mapping[str, Any]:
        """The arguments of the statements."""
        at, id, call = self.after or (None, None, None)
        return {
            "program": self.program, "execution_id": self.execution_id, "tenant": self.tenant,
            "programs": None if self.programs is None else list(self.programs),
            "after_at": at, "after_id": id, "after_call": call, "most": most,
        }  # fmt: skip


class Decided(NamedTuple):
    """The result of a decision: ``first`` is False when somebody else had decided, as ``decision`` says."""

    first: bool
    decision: Mapping[str, Any]


def call_id(request_hash: bytes, occurrence: int) -> str:
    """The name of a call within its execution."""
    return f"{bytes(request_hash)[:_HASH_BYTES].hex()}-{occurrence}"


def is_call_id(text: str) -> bool:
    """Whether a text is the name of a call, of any execution."""
    return _CALL_ID.fullmatch(text) is not None


def pending(connection: Connection, selection: CallSelection, *, most: int) -> list[PendingCall]:
    """The calls that wait for a decision, those that have waited longest first."""
    return [PendingCall(*row) for row in connection.exec_driver_sql(_PENDING, selection.parameters(most))]


def count(connection: Connection, selection: CallSelection, *, most: int) -> int:
    """How many calls wait for a decision; it stops counting at ``most``."""
    return int(connection.exec_driver_sql(_COUNT, selection.parameters(most)).scalar_one())


def notes(connection: Connection, execution_id: UUID) -> dict[str, str]:
    """The notes of decisions that an execution's program has received, by call; without sealed ones."""
    rows = connection.exec_driver_sql(_NOTES, {"execution_id": execution_id})
    return {str(row[0]): str(row[1]) for row in rows}


def decide(connection: Connection, execution_id: UUID, call: str, decision: Mapping[str, Any]) -> Decided | None:
    """Decide about a call, and let its execution go on. Needs a transaction. None when there is no such call, or its
    execution is over.

    An execution that does not wait at the moment, because another of its calls was decided, finds the decision when it
    comes to the call; its trail has it then.

    ``decision`` has ``approved``, ``by``, ``at`` and perhaps ``note``. Its note is not put into the audit trail: it may
    quote an input.
    """
    status = connection.exec_driver_sql(_LOCK, {"execution_id": execution_id}).scalar_one_or_none()
    if status is None or Status(status).is_final:
        return None
    found = connection.exec_driver_sql(_FIND, {"execution_id": execution_id, "call_id": call}).one_or_none()
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
