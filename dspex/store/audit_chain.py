"""The hash chain of audit trails: proof that no entry was edited, removed or inserted.

The events of one transition (submit, claim, settle …) are written together, as one entry, in the transaction
that makes the transition. Each entry's hash covers its content and the hash of the entry before it, and the
execution's own row keeps the number and the hash of the last entry, so a change to any entry is detected.
``dspex.audit_hash`` in the database and :func:`entry_hash` here compute the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic_core import to_json

__all__ = ["Digest", "Entry", "Verdict", "encode_events", "entry_hash", "verify_chain"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: the events of one transition, as the exact text that was hashed."""

    seq: int
    attempt: int
    at: datetime
    events: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trail is intact; ``faults`` lists what is wrong. True in a condition when it is intact."""

    faults: Sequence[str] = ()

    def __bool__(self) -> bool:
        return not self.faults


def verify_chain(execution_id: UUID, entries: Sequence[Entry], head_seq: int, head_hash: bytes) -> Verdict:
    """Whether these entries are the whole trail of the execution whose row has the head's number and hash."""
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
    """One hash over the heads of many trails, in the order in which they are added.

    A later comparison with a stored digest shows whether any of these trails was shortened, removed or added.
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
