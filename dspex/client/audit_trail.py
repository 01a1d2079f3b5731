"""The audit trail of an execution: its events in order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import from_json

from dspex.store.audit_chain import Chain, Entry, Verdict, verify_chain

__all__ = ["AuditEvent", "AuditTrail", "events_of"]

#: No event takes as long: such a duration is forged.
LONGEST_MS = 1e12


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened: ``kind``, ``at`` (UTC), ``attempt`` (0 before the first) and ``data``.

    An event that took time has ``duration_ms``; ``at`` is when it began.
    """

    kind: str
    at: datetime
    attempt: int
    data: Mapping[str, Any]

    @property
    def duration_ms(self) -> float | None:
        """How long it took; None for an event without a duration."""
        value = self.data.get("duration_ms")
        return float(value) if isinstance(value, int | float) and 0 <= value < LONGEST_MS else None


class AuditTrail(Sequence[AuditEvent]):
    """The events of one execution in order of time.

    Index by number or by kind: ``trail["claimed"]`` is the latest event of that kind (KeyError when there is
    none); ``kind in trail`` tests for one. ``verify()`` recomputes the chain.
    """

    def __init__(self, chain: Chain) -> None:
        self.execution_id: UUID = chain.execution_id
        self.entries: Sequence[Entry] = tuple(chain.entries)
        self._chain = chain
        self._events = [event for entry in self.entries for event in events_of(entry)]

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self._events[key]
        for event in reversed(self._events):
            if event.kind == key:
                return event
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return any(event.kind == key or event is key for event in self._events)

    def __repr__(self) -> str:
        return f"<AuditTrail of {self.execution_id}: {', '.join(self.kinds)}>"

    @property
    def kinds(self) -> list[str]:
        """The kind of each event, in order of time."""
        return [event.kind for event in self._events]

    def verify(self) -> Verdict:
        """Recompute every hash, follow the transitions, and compare both with the execution's row.

        True means that no event was changed, that each transition was legal, and that the inputs and the outcome are
        those that were recorded.
        """
        return verify_chain(self._chain)


def events_of(entry: Entry) -> Iterator[AuditEvent]:
    """The events of one entry. What is none, in an entry that was forged, is left out: ``verify()`` names the entry."""
    try:
        events = from_json(entry.events)
    except ValueError:  # Postgres accepts deeper JSON, and half of a surrogate pair
        return
    for event in events if isinstance(events, list) else []:
        if isinstance(event, Mapping) and isinstance(event.get("kind"), str):
            data = event.get("data")
            known = data if isinstance(data, Mapping) else {}
            yield AuditEvent(event["kind"], _time_of(event, entry), entry.attempt, known)


def _time_of(event: Mapping[str, Any], entry: Entry) -> datetime:
    """Its own time, else the time of its entry."""
    try:
        own = datetime.fromisoformat(event["at"])
    except (KeyError, TypeError, ValueError):
        return entry.at
    return own if own.tzinfo else entry.at
