"""What is noted about a model call while its reply is read."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

__all__ = ["CallNotes", "current_notes"]


@dataclass(slots=True)
class CallNotes:
    """``url`` is the address that was asked, without its query. ``finish_reason`` is the provider's word where it is
    unknown. ``is_schema_reduced``: the server refused the schema, and was asked again with a simpler one."""

    url: str | None = None
    finish_reason: str | None = None
    is_schema_reduced: bool = False
    is_usage_unknown: bool = False

    def as_data(self) -> dict[str, Any]:
        """The notes for the audit trail."""
        found = {
            "finish_reason": self.finish_reason,
            "schema": "reduced" if self.is_schema_reduced else None,
            "usage": "unknown" if self.is_usage_unknown else None,
        }
        return {name: value for name, value in found.items() if value is not None}


#: The notes of the call that this task makes.
current_notes: ContextVar[CallNotes | None] = ContextVar("current_notes", default=None)
