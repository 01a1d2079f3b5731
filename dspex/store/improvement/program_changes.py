"""What was done to a program: promoted, paused, resumed, aliases set, rollouts begun and ended; when, and by whom.

The statements that make these changes append the entries themselves, so none is made without its entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

__all__ = ["ProgramChange", "listing"]


@dataclass(frozen=True, slots=True)
class ProgramChange:
    """An entry: ``kind`` is ``promoted``, ``alias_set``, ``rollout_begun``, ``rollout_ended``, ``paused`` or
    ``resumed``; ``about`` the alias, the share of a rollout, or the reason; ``by`` None where a client did not say."""

    kind: str
    version: str | None
    about: str | None
    by: str | None
    at: datetime


_LISTING = text("""
SELECT kind, version, about, by, at FROM dspex.program_changes WHERE program = :program ORDER BY id DESC LIMIT :most
""")


def listing(connection: Connection, program: str, *, most: int = 50) -> list[ProgramChange]:
    """The latest changes of a program, the newest first."""
    rows = connection.execute(_LISTING, {"program": program, "most": most}).mappings()
    return [ProgramChange(**row) for row in rows]
