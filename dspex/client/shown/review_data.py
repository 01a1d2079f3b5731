"""Approvals and feedback as JSON-friendly data: what the command line and the HTTP gateway show of them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from dspex.client.improvement.feedback import Feedback
from dspex.client.session import Session
from dspex.client.waits.approval import Approval
from dspex.sealing.values import PLACEHOLDER, SEALED
from dspex.store.improvement import feedback_entries
from dspex.store.improvement.feedback_entries import FeedbackEntry
from dspex.wait.driver import Row

__all__ = ["approval_data", "feedback_data", "shown_feedback"]


def approval_data(approval: Approval) -> dict[str, Any]:
    """A call that waits for a decision."""
    return {
        "execution_id": str(approval.execution_id),
        "call_id": approval.call_id,
        "program": approval.program,
        "version": approval.version,
        "tenant": approval.tenant,
        "tool": approval.tool,
        "arguments": approval.arguments,
        "requested_at": approval.requested_at.isoformat(),
        "expires_at": approval.expires_at and approval.expires_at.isoformat(),
    }


def feedback_data(feedback: Feedback) -> dict[str, Any]:
    """A judgement."""
    return {
        "at": feedback.at.isoformat(),
        "score": feedback.score,
        "outputs": feedback.outputs,
        "note": feedback.note,
        "by": feedback.by,
    }


def shown_feedback(session: Session, row: Row) -> list[Feedback]:
    """The feedback on an execution, the oldest first, as JSON values: what is sealed is ``<secret>``."""
    return [_shown(entry) for entry in session.database.run(partial(feedback_entries.of_executions, ids=[row["id"]]))]


def _shown(entry: FeedbackEntry) -> Feedback:
    content = json.loads(entry.content)
    outputs, note = content.get("outputs"), content.get("note")
    if SEALED in content:
        outputs, note = {PLACEHOLDER: PLACEHOLDER} if entry.corrected else None, PLACEHOLDER
    return Feedback(entry.at, entry.score, outputs, note, entry.author)
