"""The audit events of an attempt, timed by the database's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from dspex.store.audit_chain import encode_events
from dspex.store.lifecycle.trail_order import TRANSITION_KINDS

__all__ = ["AttemptTrail"]

_ORDER = itemgetter(0, 1)


class AttemptTrail:
    """Collects the audit events of an attempt.

    ``anchor`` is the moment of the claim by Postgres' clock; the time since then is measured by this process.
    """

    def __init__(self, anchor: datetime) -> None:
        self._anchor_mono = time.monotonic()
        self._ahead = anchor.timestamp() - self._anchor_mono
        #: Whether each is the transition, when it began, and the event.
        self._events: list[tuple[bool, datetime, dict[str, Any]]] = []

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._ahead + time.monotonic(), UTC)

    def record(self, kind: str, *, began_at: datetime | None = None, **data: Any) -> None:
        """Append an event that is over. With ``began_at`` it also gets its ``duration_ms``."""
        now = self.now()
        if began_at is not None:
            data["duration_ms"] = round((now - began_at).total_seconds() * 1000, 3)
        at = began_at or now
        self._events.append((kind in TRANSITION_KINDS, at, {"kind": kind, "at": at, "data": data}))

    def withdraw(self, kind: str) -> None:
        """Remove the events of this kind: what they record did not happen."""
        self._events = [event for event in self._events if event[2]["kind"] != kind]

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the claim."""
        return (time.monotonic() - self._anchor_mono) * 1000

    def encode(self) -> str:
        """The events as JSON text, in the order in which they began; the transition is the last, whatever a thread that
        goes on records after it."""
        return encode_events([event for _, _, event in sorted(self._events, key=_ORDER)])
