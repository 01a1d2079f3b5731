"""What must hold after any crash: the same four things, asserted in one place.

1. One terminal outcome: each execution is final, and its trail tells of one ending only.
2. No lost execution: each id that a submit returned is there.
3. Nothing settled after its lease: no attempt is ended by a worker that was declared dead before.
4. A complete trail: it verifies, begins with the submit, and each attempt that was claimed ends before the next.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from dspex.client.audit_trail import AuditTrail, events_of
from dspex.client.client import Client
from dspex.store import workers
from dspex.store.audit_chain import Entry
from dspex.store.lifecycle.status import Status

__all__ = ["assert_guarantees", "long", "paid_calls"]

SUBMITTED = ["signature_compilation", "input_validation", "submitted"]
TERMINAL = {"completed", "failed", "cancelled"}
#: How an attempt may end.
ENDINGS = TERMINAL | {"retried", "recovered", "parked"}
#: Endings that the reaper writes, in the place of a worker that is dead.
BY_REAPER = "lease_expired"


def long(*values: object) -> Any:
    """A case that runs in ``make chaos`` only."""
    return pytest.param(*values, marks=pytest.mark.chaos)


def assert_guarantees(client: Client, ids: Collection[UUID], *, timeout: float = 60) -> None:
    """Wait until all of these executions are final, then assert the four things about each."""
    finals = {row["id"]: row for row in client.wait_any(ids, timeout)}
    missing = [id for id in ids if id not in finals]
    assert not missing, f"{len(missing)} of {len(ids)} not final after {timeout} s: {_states(client, missing[:5])}"
    lives = {row["id"]: row for row in client._database.run(lambda c: workers.listing(c, live_only=False))}
    faults = [f"{id}: {fault}" for id in ids for fault in _faults(finals[id], client.audit_trail(id), lives)]
    assert not faults, "\n".join(faults[:20])


def paid_calls(client: Client, ids: Sequence[UUID]) -> list[int]:
    """How many model calls of each execution are in the journal: each was paid for once."""
    query = text("SELECT execution_id, count(*) FROM dspex.lm_calls WHERE execution_id = ANY(:ids) GROUP BY 1")
    rows = client._database.run(lambda c: c.execute(query, {"ids": list(ids)}).all())
    counts = {id: int(count) for id, count in rows}
    return [counts.get(id, 0) for id in ids]


def _faults(row: Mapping[str, Any], trail: AuditTrail, lives: Mapping[UUID, Mapping[str, Any]]) -> Iterable[str]:
    yield from trail.verify().faults
    endings = [kind for kind in trail.kinds if kind in TERMINAL]
    if len(endings) != 1 or endings[0] != row["status"] or trail.kinds[-1] != row["status"]:
        yield f"is {row['status']}, its trail tells of {endings}"
    if (row["status"] == Status.COMPLETED) != (row["result"] is not None):
        yield f"is {row['status']} with result {row['result']}"
    if _kinds(trail.entries[0]) != SUBMITTED:
        yield f"its trail begins with {_kinds(trail.entries[0])}"
    yield from _attempt_faults(row, trail.entries[1:], lives)


def _attempt_faults(
    row: Mapping[str, Any], entries: Sequence[Entry], lives: Mapping[UUID, Mapping[str, Any]]
) -> Iterable[str]:
    """Entries come in pairs: an attempt is claimed, and it ends. A parked execution is resumed between two."""
    entries = [entry for entry in entries if "resumed" not in _kinds(entry)]
    claims, ends = entries[::2], entries[1::2]
    if len(claims) != len(ends):
        yield f"attempt {claims[-1].attempt} never ended"
    if row["attempt"] != len(claims):
        yield f"counts {row['attempt']} attempts, its trail tells of {len(claims)}"
    for number, (claim, end) in enumerate(zip(claims, ends, strict=False), 1):
        if _kinds(claim) != ["claimed"] or (claim.attempt, end.attempt) != (number, number):
            yield f"attempt {number} is {_kinds(claim)} of {claim.attempt}, then {_kinds(end)} of {end.attempt}"
            continue
        if len(ENDINGS & set(_kinds(end))) != 1:
            yield f"attempt {number} ends with {_kinds(end)}"
        worker = lives.get(UUID(json.loads(claim.events)[0]["data"]["worker"]))
        if worker is None:
            yield f"attempt {number} was claimed by a worker that was never registered"
        elif BY_REAPER not in _kinds(end) and _dead_before(worker, end.at):
            yield f"attempt {number} was settled at {end.at}, its worker was dead since {worker['stopped_at']}"


def _dead_before(worker: Mapping[str, Any], at: datetime) -> bool:
    return worker["stopped_at"] is not None and worker["stopped_at"] < at


def _kinds(entry: Entry) -> list[str]:
    return [event.kind for event in events_of(entry)]


def _states(client: Client, ids: Collection[UUID]) -> list[str]:
    return [f"{row['id']} {row['status']} attempt {row['attempt']}" for row in client._session.rows(ids)]
