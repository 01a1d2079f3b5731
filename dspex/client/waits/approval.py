"""Approvals as a client sees them: calls of tools that executions wait for until somebody decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from dspex.client.audit_trail import AuditTrail
from dspex.client.model_call import without_classes
from dspex.client.session import Session
from dspex.errors import AlreadyDecided, ApprovalNotFound, ExecutionNotFound, FieldError, ValidationError
from dspex.program.storable_text import STORABLE, is_storable
from dspex.sealing.values import PLACEHOLDER, SEALED, Sealing
from dspex.store.lifecycle import approvals
from dspex.store.lifecycle.approvals import CallSelection
from dspex.store.lifecycle.parked import parked_place
from dspex.submit.this_user import this_user

__all__ = ["Approval", "Approvals", "DecidedCall", "decisions_in"]

#: The longest note and name.
MOST_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Approval:
    """A call that waits for a decision. ``arguments`` are ``"<secret>"`` where they are sealed and the client has no
    key."""

    execution_id: UUID
    call_id: str
    program: str
    version: str
    tool: str
    arguments: Mapping[str, Any] | str
    requested_at: datetime
    expires_at: datetime | None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class DecidedCall:
    """A decision about a call, as the audit trail of its execution has it."""

    tool: str
    call_id: str
    approved: bool
    by: str
    at: datetime
    note: str | None = None


class Approvals:
    """Lists pending calls and decides about them. A ``sealing`` in place of the session's opens arguments."""

    def __init__(self, session: Session, sealing: Sealing | None = None) -> None:
        self._session = session
        self._sealing = sealing

    def pending(self, selection: CallSelection, *, limit: int) -> Sequence[Approval]:
        """See :meth:`dspex.Client.approvals`."""
        find = partial(approvals.pending, selection=selection, most=limit)
        return [self._shown(call) for call in self._session.database.run(find)]

    def decided(self, trail: AuditTrail) -> Sequence[DecidedCall]:
        """The decisions in a trail, with the notes that are not sealed once the program has received them."""
        made = decisions_in(trail)
        if not made:
            return []
        notes = self._session.database.run(partial(approvals.notes, execution_id=trail.execution_id))
        return [replace(each, note=notes.get(each.call_id)) for each in made]

    def decide(self, execution_id: UUID, call_id: str, *, approved: bool, note: str | None, by: str | None) -> None:
        """See :meth:`dspex.Client.approve`."""
        faults = [*_text_faults("note", note), *_text_faults("by", by)]
        if faults:
            raise ValidationError.of("a decision", faults)
        who = by or this_user()
        decision = {"approved": approved, "by": who, "at": datetime.now(UTC).isoformat()}
        if note:
            decision["note"] = note
        decided = None
        if approvals.is_call_id(call_id):
            with self._session.database.transaction(saved="no decision is saved") as connection:
                decided = approvals.decide(connection, execution_id, call_id, decision)
        if decided is None:
            raise self._nothing_waits(execution_id, call_id)
        if not decided.first:
            earlier = decided.decision
            raise _decided_before(execution_id, call_id, approved=bool(earlier["approved"]), by=str(earlier["by"]))

    def _nothing_waits(self, execution_id: UUID, call_id: str) -> AlreadyDecided | ApprovalNotFound:
        """The error for a call that no execution waits for: its trail has who decided about it, if somebody did."""
        with suppress(ExecutionNotFound):
            for each in decisions_in(self._session.audit_trail(execution_id)):
                if each.call_id == call_id:
                    return _decided_before(execution_id, call_id, approved=each.approved, by=each.by)
        return ApprovalNotFound(
            f"execution {execution_id} waits for no decision about call {call_id!r}: it may have ended, or the call "
            "may have expired",
            execution_id=str(execution_id), call_id=call_id,
        )  # fmt: skip

    def _shown(self, call: approvals.PendingCall) -> Approval:
        return Approval(
            call.execution_id,
            call.call_id,
            call.program,
            call.version,
            call.tool,
            self._arguments(call),
            call.parked_at,
            call.expires_at,
            call.tenant,
        )

    def _arguments(self, call: approvals.PendingCall) -> Mapping[str, Any] | str:
        stored: dict[str, Any] = json.loads(call.request)
        if SEALED not in stored:
            return dict(without_classes(stored))
        sealing = self._session.sealing if self._sealing is None else self._sealing
        if sealing.keyring is None:
            return PLACEHOLDER
        place = parked_place(bytes(call.request_hash), call.occurrence)
        return dict(without_classes(sealing.open_whole(stored, f"{call.execution_id}:call:{place}")))


def decisions_in(trail: AuditTrail) -> list[DecidedCall]:
    """The decisions in a trail, without their notes. One that came while the execution did not wait is there once the
    program has received it."""
    found: dict[str, DecidedCall] = {}
    for event in trail:
        if event.kind in ("approved", "rejected", "decision") and "call" in event.data:
            approved = event.data.get("approved", event.kind == "approved")
            made = DecidedCall(event.data["tool"], event.data["call"], approved, event.data["by"], event.at)
            found.setdefault(made.call_id, made)
    return list(found.values())


def _decided_before(execution_id: UUID, call_id: str, *, approved: bool, by: str) -> AlreadyDecided:
    return AlreadyDecided(
        f"call {call_id!r} of execution {execution_id} was {'approved' if approved else 'rejected'} by {by} before",
        execution_id=str(execution_id), call_id=call_id, approved=approved, by=by,
    )  # fmt: skip


def _text_faults(name: str, text: object) -> list[FieldError]:
    if text is None or (isinstance(text, str) and len(text) <= MOST_CHARACTERS and is_storable(text)):
        return []
    return [FieldError(name, f"at most {MOST_CHARACTERS} characters of {STORABLE}", repr(text)[:80])]
