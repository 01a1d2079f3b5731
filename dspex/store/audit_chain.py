"""The audit trail: what happened to an execution, in order, and a proof that nothing was edited.

The events of one transition (submit, claim, settle …) are written together, as one entry, in the transaction
that makes the transition. Each entry's hash covers its content and the hash of the entry before it, and the
execution's own row keeps the number and the hash of the last, so an entry that was edited, removed or
inserted shows. ``dspex.audit_hash`` in the database and :func:`entry_hash` here compute the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json

__all__ = ["AuditEvent", "AuditTrail", "Digest", "Entry", "Verdict", "encode_events", "entry_hash", "verify_chain"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        value = self.data.get("duration_ms")
        return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: the events of one transition, as the exact text that was hashed."""

    seq: int
    attempt: int
    at: datetime
    events: str
    hash: bytes

    def decode(self) -> Iterator[AuditEvent]:
        for event in from_json(self.events):
            at = datetime.fromisoformat(event["at"]) if "at" in event else self.at
            yield AuditEvent(event["kind"], at, self.attempt, event.get("data", {}))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trail is whole; ``faults`` says what is wrong with it. True in a condition when whole."""

    faults: Sequence[str] = ()

    def __bool__(self) -> bool:
        return not self.faults


class AuditTrail(Sequence[AuditEvent]):
    """The events of one execution in order of time.

    Index by number, or by kind: ``trail["claimed"]`` is the latest event of that kind (KeyError when there is
    none); ``kind in trail`` asks. ``verify()`` recomputes the chain.
    """

    def __init__(self, execution_id: UUID, entries: Sequence[Entry], *, head_seq: int, head_hash: bytes) -> None:
        self.execution_id = execution_id
        self.entries = tuple(entries)
        self._head = (head_seq, head_hash)
        self._events = [event for entry in self.entries for event in entry.decode()]

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
        return [event.kind for event in self._events]

    def verify(self) -> Verdict:
        """Recompute every hash, and compare the last one with the execution's own record of it."""
        return verify_chain(self.execution_id, self.entries, *self._head)


def verify_chain(execution_id: UUID, entries: Sequence[Entry], head_seq: int, head_hash: bytes) -> Verdict:
    """Whether these entries are the whole trail of the execution, whose row has the last one's number and hash."""
    faults = []
    previous = b""
    for expected_seq, entry in enumerate(entries, 1):
        if entry.seq != expected_seq:
            faults.append(f"entry {expected_seq} is missing: found {entry.seq}")
            break
        actual = entry_hash(previous, execution_id, entry.seq, entry.attempt, entry.at, entry.events)
        if actual != entry.hash:
            faults.append(f"entry {entry.seq} was changed: its hash does not match its content")
        previous = entry.hash
    if not faults and (len(entries), previous) != (head_seq, head_hash):
        faults.append(f"the trail has {len(entries)} entries; the execution recorded {head_seq}")
    return Verdict(tuple(faults))


def entry_hash(previous: bytes, execution_id: UUID | str, seq: int, attempt: int, at: datetime, events: str) -> bytes:
    """SHA-256 over the previous entry's hash and this entry's content; ``at`` counts in whole microseconds."""
    since = at - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return hashlib.sha256(previous + f"{execution_id}|{seq}|{attempt}|{microseconds}|{events}".encode()).digest()


class Digest:
    """One hash over the ends of many trails, in the order in which they are added.

    Whoever kept it can tell later that none of these trails was cut short, removed or added.
    """

    def __init__(self) -> None:
        self.count = 0
        self.value = b""

    def add(self, execution_id: UUID, head_seq: int, head_hash: bytes) -> None:
        end = execution_id.bytes + head_seq.to_bytes(4, "big") + head_hash
        self.value = hashlib.sha256(self.value + end).digest()
        self.count += 1


def encode_events(events: Sequence[Mapping[str, Any]]) -> str:
    """The text of an entry: compact JSON."""
    return to_json(events).decode()
