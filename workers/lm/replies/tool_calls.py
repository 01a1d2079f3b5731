"""Calls of tools that are not whole."""

from __future__ import annotations

from lm15 import Response, ToolCallPart

from workers.lm.replies.error_rules import GARBLED
from workers.lm.replies.reply_fault import ReplyFault

__all__ = ["refuse_broken_calls"]


def refuse_broken_calls(response: Response) -> None:
    """Raises ReplyFault for a call whose arguments are not JSON: it was cut off, or is malformed."""
    calls = [part for part in response.message.parts if isinstance(part, ToolCallPart)]
    if any(call.input.keys() == {"partial_json"} for call in calls):  # where lm15 puts what it cannot read
        raise ReplyFault(rule=GARBLED, request_id=response.id)
