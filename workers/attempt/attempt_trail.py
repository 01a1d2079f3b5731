"""The audit events of an attempt, timed by the database's clock."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dspex.store.audit_chain import encode_events

__all__ = ["AttemptTrail"]


class AttemptTrail:
    """Collects events, and holds what the program's actions told.

    ``anchor`` is the moment of the claim by Postgres' clock; the time since is measured here.
    """

    def __init__(self, anchor: datetime) -> None:
        self._anchor_mono = time.monotonic()
        self._ahead = anchor.timestamp() - self._anchor_mono
        self.action_results: Mapping[str, Any] = {}
        self._events: list[tuple[datetime, str, dict[str, Any]]] = []

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._ahead + time.monotonic(), UTC)

    def record(self, kind: str, *, began_at: datetime | None = None, **data: Any) -> None:
        """Append an event that is over; one that ``began_at`` a moment gets its ``duration_ms``."""
        now = self.now()
        if began_at is not None:
            data["duration_ms"] = round((now - began_at).total_seconds() * 1000, 3)
        self._events.append((began_at or now, kind, data))

    def withdraw(self, kind: str) -> None:
        """Take back the events of this kind: what they tell did not come to be."""
        self._events = [event for event in self._events if event[1] != kind]

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the claim."""
        return (time.monotonic() - self._anchor_mono) * 1000

    def encode(self) -> str:
        """The entry's text: the events in order of when they began."""
        ordered = sorted(self._events, key=lambda event: event[0])
        return encode_events([{"kind": kind, "at": at, "data": data} for at, kind, data in ordered])
