"""Which trails are a possible life of an execution."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from dspex.store.lifecycle.status import Status
from dspex.store.lifecycle.trail_order import Life, follow

SUBMIT = (0, ["signature_compilation", "input_validation", "submitted"])
CLAIM = (1, ["claimed"])
COMPLETE = (1, ["lm_call", "completed"])


def trail(*entries: tuple[int, Sequence[str]]) -> list[tuple[int, str]]:
    return [(attempt, json.dumps([{"kind": kind} for kind in kinds])) for attempt, kinds in entries]


@pytest.mark.parametrize(
    ("entries", "life"),
    [
        ([SUBMIT], Life()),
        ([SUBMIT, CLAIM], Life(Status.RUNNING, 1)),
        ([SUBMIT, CLAIM, COMPLETE], Life(Status.COMPLETED, 1)),
        ([SUBMIT, (0, ["cancelled"]), (0, ["retried"]), CLAIM, (1, ["failed"])], Life(Status.FAILED, 1)),
        ([SUBMIT, CLAIM, (1, ["retried"]), (2, ["claimed"]), (2, ["cancelled"])], Life(Status.CANCELLED, 2)),
        ([SUBMIT, CLAIM, (1, ["retried", "cancelled"])], Life(Status.CANCELLED, 1)),
        ([SUBMIT, CLAIM, (1, ["lease_expired", "recovered"])], Life(Status.QUEUED, 1)),
        ([SUBMIT, CLAIM, (1, ["lm_call", "parked"])], Life(Status.WAITING, 1)),
        ([SUBMIT, CLAIM, (1, ["parked"]), (1, ["approved", "resumed"]), (2, ["claimed"])], Life(Status.RUNNING, 2)),
        ([SUBMIT, CLAIM, (1, ["parked"]), (1, ["failed"]), (1, ["retried"])], Life(Status.QUEUED, 1)),
        ([SUBMIT, CLAIM, (1, ["parked", "cancelled"])], Life(Status.CANCELLED, 1)),
        ([SUBMIT, CLAIM, (1, ["parked"]), (1, ["cancelled"])], Life(Status.CANCELLED, 1)),
        ([SUBMIT, (0, ["resealed"]), CLAIM, (1, ["resealed"]), COMPLETE, (1, ["resealed"])], Life(Status.COMPLETED, 1)),
    ],
)
def test_a_legal_trail_leads_to_a_status(entries: list[tuple[int, list[str]]], life: Life) -> None:
    assert follow(trail(*entries)) == (life, [])


@pytest.mark.parametrize(
    "entries",
    [
        [CLAIM],
        [(0, [])],
        [(0, ["submitted", "claimed"])],
        [(0, ["claimed", "submitted"])],
        [(1, ["submitted"])],
        [SUBMIT, SUBMIT],
        [SUBMIT, (0, ["claimed"])],
        [SUBMIT, (2, ["claimed"])],
        [SUBMIT, (0, ["completed"])],
        [SUBMIT, (0, ["retried"])],
        [SUBMIT, CLAIM, (1, ["lm_call"])],
        [SUBMIT, CLAIM, (1, ["completed", "lm_call"])],
        [SUBMIT, CLAIM, (1, ["failed", "completed"])],
        [SUBMIT, CLAIM, (1, ["resealed", "completed"]), (1, ["noted", "resealed"])],
        [SUBMIT, CLAIM, COMPLETE, (1, ["cancelled"])],
        [SUBMIT, CLAIM, COMPLETE, (1, ["retried"])],
        [SUBMIT, CLAIM, COMPLETE, COMPLETE],
        [SUBMIT, CLAIM, CLAIM],
        [SUBMIT, (0, ["parked"])],
        [SUBMIT, CLAIM, (1, ["resumed"])],
        [SUBMIT, CLAIM, (1, ["parked"]), (1, ["completed"])],
        [SUBMIT, CLAIM, (1, ["parked"]), (1, ["claimed"])],
    ],
)
def test_an_illegal_trail_is_named_by_its_first_fault(entries: list[tuple[int, list[str]]]) -> None:
    _, (fault,) = follow(trail(*entries))
    assert f"entry {len(entries)} is not legal" in fault


@pytest.mark.parametrize("events", ["", "{}", "[1]", "null", "[{}]", '["submitted"]'])
def test_what_is_not_a_list_of_events_is_a_fault(events: str) -> None:
    assert follow([(0, events)])[1] == ["entry 1 is not legal: no events of attempt 0"]
