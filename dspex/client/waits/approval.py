"""Approvals as a client sees them: calls of tools that executions wait for until somebody decides."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from dspex.client.model_call import without_classes
from dspex.client.session import Session
from dspex.errors import AlreadyDecided, ApprovalNotFound, FieldError, ValidationError
from dspex.program.storable_text import STORABLE, is_storable
from dspex.sealing.values import PLACEHOLDER, SEALED
from dspex.store.lifecycle import approvals
from dspex.store.lifecycle.parked import parked_place

__all__ = ["Approval", "Approvals"]

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


class Approvals:
    """Lists pending calls and decides about them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pending(self, *, program: str | None, execution_id: UUID | None, limit: int) -> Sequence[Approval]:
        """See :meth:`dspex.Client.approvals`."""
        find = partial(approvals.pending, program=program, execution_id=execution_id, most=limit)
        return [self._shown(call) for call in self._session.database.run(find)]

    def decide(self, execution_id: UUID, call_id: str, *, approved: bool, note: str | None, by: str | None) -> None:
        """See :meth:`dspex.Client.approve`."""
        faults = [*_text_faults("note", note), *_text_faults("by", by)]
        if faults:
            raise ValidationError.of("a decision", faults)
        who = by or _user()
        decision = {"approved": approved, "by": who, "at": datetime.now(UTC).isoformat()}
        if note:
            decision["note"] = note
        with self._session.database.transaction(saved="no decision is saved") as connection:
            decided = approvals.decide(connection, execution_id, call_id, decision)
        if decided is None:
            raise ApprovalNotFound(
                f"execution {execution_id} waits for no decision about call {call_id!r}: it may have been decided and "
                "made already, or expired",
                execution_id=str(execution_id), call_id=call_id,
            )  # fmt: skip
        if not decided.first:
            earlier = decided.decision
            what = "approved" if earlier["approved"] else "rejected"
            raise AlreadyDecided(
                f"call {call_id!r} of execution {execution_id} was {what} by {earlier['by']} before",
                execution_id=str(execution_id), call_id=call_id, approved=earlier["approved"], by=earlier["by"],
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
        )

    def _arguments(self, call: approvals.PendingCall) -> Mapping[str, Any] | str:
        stored: dict[str, Any] = json.loads(call.request)
        if SEALED not in stored:
            return dict(without_classes(stored))
        sealing = self._session.sealing
        if sealing.keyring is None:
            return PLACEHOLDER
        place = parked_place(bytes(call.request_hash), call.occurrence)
        return dict(without_classes(sealing.open_whole(stored, f"{call.execution_id}:call:{place}")))


def _user() -> str:
    """This user of the machine; a container may have no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _text_faults(name: str, text: object) -> list[FieldError]:
    if text is None or (isinstance(text, str) and len(text) <= MOST_CHARACTERS and is_storable(text)):
        return []
    return [FieldError(name, f"at most {MOST_CHARACTERS} characters of {STORABLE}", repr(text)[:80])]
