"""Feedback: judgements of final executions. ``dspex.append_feedback`` appends one together with its audit entry."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = ["FeedbackEntry", "append", "of_executions"]


@dataclass(frozen=True, slots=True)
class FeedbackEntry:
    """A row: ``content`` is JSON text with ``outputs`` and ``note``, sealed where the execution is."""

    execution_id: UUID
    at: datetime
    score: float | None
    corrected: bool
    content: str
    author: str | None


_APPEND = text("""
SELECT dspex.append_feedback(CAST(:execution_id AS uuid), CAST(:score AS float8), :corrected, CAST(:content AS text),
    CAST(:author AS text))
""")

_OF_EXECUTIONS = text("""
SELECT execution_id, at, score, corrected, content::text, author FROM dspex.feedback
WHERE execution_id = ANY(:ids) ORDER BY id
""")


def append(
    connection: Connection,
    *,
    execution_id: UUID,
    score: float | None,
    corrected: bool,
    content: str,
    author: str | None,
) -> bool:
    """Append feedback. False when the execution is not there, or not final."""
    given = {"execution_id": execution_id, "score": score, "corrected": corrected, "content": content, "author": author}
    return bool(connection.scalar(_APPEND, given))


def of_executions(connection: Connection, ids: Collection[UUID]) -> list[FeedbackEntry]:
    """The feedback on these executions, the oldest first."""
    return [FeedbackEntry(*row) for row in connection.execute(_OF_EXECUTIONS, {"ids": list(ids)})]
