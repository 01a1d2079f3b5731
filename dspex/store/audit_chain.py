"""The hash chain of audit trails: proof that no entry was edited, removed or inserted, and no outcome rewritten.

The events of one transition (submit, claim, settle …) are written together, as one entry, in the transaction
that makes the transition. Each entry's hash covers its content and the hash of the entry before it, and the
execution's own row keeps the number and the hash of the last entry, so a change to any entry is detected. The entry of
the submit has a hash of what was submitted, the entry that ends an attempt a hash of the outcome, so a change to these
values is detected, too. ``dspex.audit_hash`` and the other functions in the database compute the same hashes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from dspex.store.lifecycle.trail_order import Life, follow

__all__ = [
    "Chain",
    "Digest",
    "Entry",
    "Recorded",
    "Verdict",
    "encode_events",
    "entry_hash",
    "hash_of_hashes",
    "hash_of_submission",
    "hash_of_values",
    "verify_chain",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: What stands for a value that is NULL.
_NO_VALUE = bytes(32)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: the events of one transition, as the exact text that was hashed.

    ``submission_hash`` and ``outcome_hash`` are None in an entry that leaves these values as they are.
    """

    seq: int
    attempt: int
    at: datetime
    events: str
    hash: bytes
    submission_hash: bytes | None = None
    outcome_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an execution's own row has: its status and attempt, and the hashes of its values.

    ``submission`` is of program, version, inputs and metadata; ``outcome`` is of result, error, metrics, adapter and
    results of actions.
    """

    status: str
    attempt: int
    submission: bytes
    outcome: bytes


@dataclass(slots=True)
class Chain:
    """The entries of an execution, and the number and hash of the last one that its own row has.

    ``recorded`` is None when there is no row: retention removed it, or the chain comes from a file.
    """

    execution_id: UUID
    head_seq: int
    head_hash: bytes
    entries: list[Entry] = field(default_factory=list)
    recorded: Recorded | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trail is intact; ``faults`` lists what is wrong. True in a condition when it is intact."""

    faults: Sequence[str] = ()

    def __bool__(self) -> bool:
        return not self.faults


def verify_chain(chain: Chain) -> Verdict:
    """Whether the entries are the whole trail of the execution, a possible life, and the one that its row ends with."""
    faults = list(_hash_faults(chain))
    if not faults:
        life, faults = follow([(entry.attempt, entry.events) for entry in chain.entries])
        if not faults and chain.recorded is not None:
            faults = list(_row_faults(chain.entries, life, chain.recorded))
    return Verdict(tuple(faults))


def _hash_faults(chain: Chain) -> Iterator[str]:
    previous, intact = b"", True
    for expected_seq, entry in enumerate(chain.entries, 1):
        if entry.seq != expected_seq:
            yield f"entry {expected_seq} is missing: found {entry.seq}"
            return
        if _hash(previous, chain.execution_id, entry) != entry.hash:
            intact = False
            yield f"entry {entry.seq} was changed: its hash does not match its content"
        previous = entry.hash
    if intact and len(chain.entries) != chain.head_seq:
        yield f"the trail has {len(chain.entries)} entries; the execution recorded {chain.head_seq}"
    elif intact and previous != chain.head_hash:
        yield "the trail does not end with the entry that the execution recorded"


def _row_faults(entries: Sequence[Entry], life: Life, recorded: Recorded) -> Iterator[str]:
    if (life.status, life.attempt) != (recorded.status, recorded.attempt):
        yield (
            f"the trail ends {life.status} at attempt {life.attempt}; "
            f"the execution is {recorded.status} at attempt {recorded.attempt}"
        )
    submitted = [entry.submission_hash for entry in entries if entry.submission_hash is not None]
    if submitted[-1:] != [recorded.submission]:
        yield "the program, version, inputs or metadata are not those that were submitted"
    outcomes = [entry.outcome_hash for entry in entries if entry.outcome_hash is not None]
    if (outcomes or [_NO_OUTCOME])[-1] != recorded.outcome:
        yield "the result, error, metrics, adapter or action results are not those that were recorded"


def _hash(previous: bytes, execution_id: UUID, entry: Entry) -> bytes:
    return entry_hash(
        previous,
        execution_id,
        entry.seq,
        entry.attempt,
        entry.at,
        entry.events,
        submission_hash=entry.submission_hash,
        outcome_hash=entry.outcome_hash,
    )


def entry_hash(
    previous: bytes,
    execution_id: UUID | str,
    seq: int,
    attempt: int,
    at: datetime,
    events: str,
    *,
    submission_hash: bytes | None = None,
    outcome_hash: bytes | None = None,
) -> bytes:
    """SHA-256 over the previous entry's hash and this entry's content; ``at`` counts in whole microseconds."""
    since = at - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    values = f"{(submission_hash or b'').hex()}|{(outcome_hash or b'').hex()}"
    content = f"{execution_id}|{seq}|{attempt}|{microseconds}|{values}|{events}"
    return hashlib.sha256(previous + content.encode()).digest()


def hash_of_values(*values: str | None) -> bytes:
    """One hash for some values of an execution, as the texts that are stored."""
    return hash_of_hashes(*(None if value is None else _hash_of_text(value) for value in values))


def hash_of_submission(program: str, version: str, inputs: str, metadata: str | None) -> bytes:
    """:func:`hash_of_values` of what was submitted. What the rows of a batch share is hashed once."""
    before, after = _hashes_around(program, version, metadata)
    return hashlib.sha256(before + hashlib.sha256(inputs.encode()).digest() + after).digest()


@functools.lru_cache(maxsize=16)
def _hashes_around(program: str, version: str, metadata: str | None) -> tuple[bytes, bytes]:
    """The hashes of these values, before and after the hash of the inputs."""
    after = _NO_VALUE if metadata is None else _hash_of_text(metadata)
    return _hash_of_text(program) + _hash_of_text(version), after


def _hash_of_text(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()


def hash_of_hashes(*hashes: bytes | None) -> bytes:
    """:func:`hash_of_values` when the hash of each value is known already; None for a value that is NULL."""
    return hashlib.sha256(b"".join(_NO_VALUE if each is None else each for each in hashes)).digest()


#: The outcome of an execution before its first settlement.
_NO_OUTCOME = hash_of_hashes(None, None, None, None, None)


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
