"""The checker of histories: hand-written ones that it must accept, and for each rule some that it must reject."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import BackendUnavailable, ValidationError
from tests.chaos.history.checker import RULES, check
from tests.chaos.history.evidence import READER
from tests.chaos.history.paid import paid
from tests.chaos.history.record import Operation, Outcome, Recorder, operations, read_history
from tests.chaos.history.trails import SUBMITTED, abandoned, trail_faults

History = list[Operation]

QUESTION, CALLS = "first", 2
ANSWER = paid(QUESTION, CALLS).answer
HEARD, FOUND = "2026-01-01T00:00:10+00:00", "2026-01-01T00:00:16+00:00"
#: The second of HEARD, by the system's clock.
WALL = 1767225610.0


# ----------------------------------------------------------------------------------------------------- how to write one


def op(
    action: str,
    began: float,
    ended: float,
    *,
    outcome: Outcome = "ok",
    process: str = "a",
    given: Mapping[str, Any] | None = None,
    seen: Mapping[str, Any] | None = None,
) -> Operation:
    wall = (WALL + began, WALL + ended)
    return Operation(process, action, began, ended, outcome, given or {}, seen or {}, wall)


def shot(status: str = "completed", attempts: int = 1, **others: Any) -> dict[str, Any]:
    """A snapshot of execution ``x``."""
    answer = ANSWER if status == "completed" else None
    error = "fails" if status == "failed" else None
    base = {"id": "x", "program": "work", "version": "v0", "status": status, "attempts": attempts}
    return {**base, "answer": answer, "error": error, "seconds": 1.0, **others}


def read(began: float, ended: float, status: str, attempts: int, **others: Any) -> Operation:
    return op("read", began, ended, given={"id": "x"}, seen={"executions": [shot(status, attempts, **others)]})


def submit(began: float, ended: float, **others: Any) -> Operation:
    seen = {"ids": ["x"], "executions": [shot("queued", 0)]}
    return replace(op("submit", began, ended, given={"questions": [QUESTION]}, seen=seen), **others)


def event(kind: str, attempt: int, **data: Any) -> dict[str, Any]:
    return {"kind": kind, "attempt": attempt, "data": data}


def trail(*events: dict[str, Any], faults: Sequence[str] = ()) -> dict[str, Any]:
    return {"faults": list(faults), "events": [*(event(kind, 0) for kind in SUBMITTED), *events]}


COMPLETED = (event("claimed", 1), event("completed", 1))
LOST = (event("claimed", 1), event("lease_expired", 1, pid=7, last_heartbeat_at=HEARD, found_at=FOUND),
        event("recovered", 1))  # fmt: skip
RECOVERED = (*LOST, event("claimed", 2), event("completed", 2))


def at_the_end(*snapshots: dict[str, Any], made: Mapping[str, int] | None = None) -> History:
    if made is None:
        made = dict.fromkeys(paid(QUESTION, CALLS).requests, 1)
    return [
        op("read_all", 100, 101, process=READER, seen={"executions": list(snapshots)}),
        op("count_calls", 101, 102, process=READER, seen={"made": made}),
    ]


def final(status: str = "completed", attempts: int = 1, **others: Any) -> dict[str, Any]:
    known = {"question": QUESTION, "calls": CALLS, "trail": trail(*COMPLETED)}
    return shot(status, attempts, **{**known, **others})


def calls_made(*counts: int) -> dict[str, int]:
    return dict(zip(paid(QUESTION, CALLS).requests, counts, strict=True))


def fault(kind: str, began: float, ended: float, **given: Any) -> Operation:
    return op("fault", began, ended, process="nemesis", given={"kind": kind, **given})


def stream(*events: dict[str, Any]) -> Operation:
    base = {"attempt": 1, "status": None, "field": None, "text": None, "value": None}
    return op("stream", 5, 6, given={"id": "x"}, seen={"events": [{**base, **each} for each in events]})


DONE = {"kind": "done", "value": ANSWER}
RETRIED = (event("claimed", 1), event("failed", 1), event("retried", 1, by="operator"), event("claimed", 2),
           event("completed", 2))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ accepted

GOOD: dict[str, Callable[[], History]] = {
    "nothing happened": list,
    "one execution": lambda: [submit(0, 1), read(2, 3, "running", 1), read(4, 5, "completed", 1), *at_the_end(final())],
    "reads that overlap, in either order": lambda: [
        submit(0, 1), read(2, 6, "completed", 1), read(3, 5, "running", 1), *at_the_end(final()),
    ],
    "a submit of unknown outcome that is stored": lambda: [
        submit(0, math.inf, outcome="unknown", seen={}), *at_the_end(final()),
    ],
    "a submit of unknown outcome that is not stored": lambda: [
        submit(0, math.inf, outcome="unknown", seen={}), *at_the_end(made={}),
    ],
    "a submit again under its key": lambda: [
        submit(0, math.inf, outcome="unknown", seen={"message": "out of reach (nothing was saved)"}), submit(2, 3),
        *at_the_end(final()),
    ],
    "a refused submit that is not stored": lambda: [
        submit(0, 1, outcome="failed", seen={"message": "no"}), *at_the_end(made={}),
    ],
    "an attempt lost with its worker, and a call with it": lambda: [
        submit(0, 1), fault("kill_worker", 2, 3, pid=7),
        *at_the_end(final(attempts=2, trail=trail(*RECOVERED)), made=calls_made(2, 1)),
    ],
    "an attempt lost while Postgres was away": lambda: [
        submit(0, 1), fault("cut_postgres", 2, 3, link="workers"),
        *at_the_end(final(attempts=2, trail=trail(*RECOVERED))),
    ],
    "an attempt lost, by a clock that was set": lambda: [
        submit(-64, -63), fault("step_postgres", -62, -61, ahead_seconds=60.0),
        fault("kill_worker", -58, -57, pid=7),
        *at_the_end(final(attempts=2, trail=trail(*RECOVERED))),
    ],
    "a failure, a retry and a result": lambda: [
        submit(0, 1), read(2, 3, "failed", 1), op("retry", 4, 5, given={"id": "x"}), read(6, 7, "queued", 1),
        read(8, 9, "completed", 2), *at_the_end(final(attempts=2, trail=trail(*RETRIED))),
    ],
    "a retry of unknown outcome that takes effect late": lambda: [
        submit(0, 1), op("retry", 2, math.inf, outcome="unknown", given={"id": "x"}), read(3, 4, "failed", 1),
        read(5, 6, "queued", 1), *at_the_end(final(attempts=2, trail=trail(*RETRIED))),
    ],
    "cancelled while it was queued": lambda: [
        submit(0, 1), read(2, 3, "cancelled", 0),
        *at_the_end(final("cancelled", 0, trail=trail(event("cancelled", 0))), made={}),
    ],
    "cancelled in the middle of its calls": lambda: [
        submit(0, 1),
        *at_the_end(
            final("cancelled", 1, trail=trail(event("claimed", 1), event("cancelled", 1))),
            made={paid(QUESTION, CALLS).requests[0]: 1},
        ),
    ],
    "a paused program of which nothing begins": lambda: [
        op("pause", 0, 1, given={"program": "work"}), submit(2, 3), read(4, 5, "queued", 0), read(6, 7, "queued", 0),
        op("resume", 8, 9, given={"program": "work"}), read(10, 11, "running", 1), *at_the_end(final()),
    ],
    "a resume of unknown outcome that takes effect late": lambda: [
        op("resume", -2, math.inf, outcome="unknown", given={"program": "work"}),
        op("pause", 0, 1, given={"program": "work"}), submit(2, 3), read(4, 5, "queued", 0), read(6, 7, "running", 1),
        op("resume", 8, 9, given={"program": "work"}), *at_the_end(final()),
    ],
    "a version deployed meanwhile": lambda: [
        op("deploy", -2, -1, given={"program": "work", "version": "v0"}),
        op("deploy", 0.5, 2, given={"program": "work", "version": "v1"}),
        submit(0, 1), *at_the_end(final()),
    ],
    "a stream with a lost attempt": lambda: [
        submit(0, 1),
        stream(
            {"kind": "status", "status": "queued", "attempt": 0}, {"kind": "status", "status": "running"},
            {"kind": "partial", "field": "answer", "text": "wrong"}, {"kind": "status", "status": "queued"},
            {"kind": "reset"}, {"kind": "status", "status": "running", "attempt": 2},
            {"kind": "partial", "field": "answer", "text": ANSWER[:3]},
            {"kind": "field", "field": "answer", "value": ANSWER}, DONE,
        ),
        *at_the_end(final()),
    ],
    "a wait that is over before the end": lambda: [
        submit(0, 1), op("result", 2, 22, outcome="failed", given={"id": "x"}), *at_the_end(final(seconds=15.0)),
    ],
    "a wait that ends late as a clock was set": lambda: [
        submit(0, 1), fault("step_postgres", 3, 4, ahead_seconds=-20.0),
        op("result", 2, 22, outcome="failed", given={"id": "x"}), *at_the_end(final()),
    ],
    "a batch": lambda: [
        op("submit_many", 0, 1, given={"questions": [QUESTION]}, seen={"ids": ["x"]}),
        op("as_completed", 2, 3, given={"batch": "b", "ids": ["x"]}, seen={"executions": [shot()]}),
        *at_the_end(final()),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_history_in_which_every_promise_holds_is_accepted(name: str) -> None:
    assert check(GOOD[name]()) == []


# ------------------------------------------------------------------------------------------------------------ rejected

BAD: dict[str, tuple[str, Callable[[], History]]] = {
    "an acknowledged submit is gone": ("lost submit", lambda: [submit(0, 1), *at_the_end(made={})]),
    "an acknowledged submit has other inputs": (
        "lost submit", lambda: [submit(0, 1), *at_the_end(final(question="other", calls=0), made={})],
    ),
    "an acknowledged submit is not found": (
        "vanished",
        lambda: [submit(0, 1), op("read", 2, 3, outcome="failed", given={"id": "x"},
                                  seen={"error": "ExecutionNotFound", "message": "no execution"}),
                 *at_the_end(final())],
    ),
    "a refused submit is stored": (
        "refused submit stored",
        lambda: [submit(0, 1, outcome="failed", seen={"message": "no"}), *at_the_end(final())],
    ),
    "a submit that said it saved nothing is stored": (
        "refused submit stored",
        lambda: [
            submit(0, math.inf, outcome="unknown", seen={"message": "out of reach (nothing was saved)"}),
            *at_the_end(final()),
        ],
    ),
    "an execution without a submit": ("stranger", lambda: at_the_end(final())),
    "a key stands for two": ("doubled submit", lambda: [submit(0, 1), *at_the_end(final(), final(id="y"))]),
    "it runs at the end": (
        "not final", lambda: [submit(0, 1), *at_the_end(final("running", trail=trail(event("claimed", 1))))],
    ),
    "it completed without an attempt": (
        "impossible status", lambda: [submit(0, 1), read(2, 3, "completed", 0), *at_the_end(final())],
    ),
    "it completed without a result": (
        "impossible status", lambda: [submit(0, 1), read(2, 3, "completed", 1, answer=None), *at_the_end(final())],
    ),
    "a result changed": (
        "changed outcome",
        lambda: [submit(0, 1), read(2, 3, "completed", 1, answer="other"), read(4, 5, "completed", 1),
                 *at_the_end(final())],
    ),
    "a completed execution ran again": (
        "changed outcome", lambda: [submit(0, 1), read(2, 3, "completed", 1), read(4, 5, "running", 2),
                                    *at_the_end(final())],
    ),
    "a completed execution was retried": (
        "changed outcome",
        lambda: [submit(0, 1), read(2, 3, "completed", 1), op("retry", 4, 5, given={"id": "x"}),
                 read(6, 7, "queued", 1), *at_the_end(final())],
    ),
    "a failure became a success by itself": (
        "changed outcome", lambda: [submit(0, 1), read(2, 3, "failed", 1), *at_the_end(final())],
    ),
    "a failure became a success before its retry": (
        "changed outcome",
        lambda: [submit(0, 1), read(2, 3, "failed", 1), read(4, 5, "completed", 2),
                 op("retry", 6, 7, given={"id": "x"}), *at_the_end(final(attempts=2, trail=trail(*RETRIED)))],
    ),
    "an attempt was taken back": (
        "backward status", lambda: [submit(0, 1), read(2, 3, "running", 2), read(4, 5, "running", 1),
                                    *at_the_end(final())],
    ),
    "it was queued again within its attempt": (
        "backward status", lambda: [submit(0, 1), read(2, 3, "queued", 1), read(4, 5, "running", 1),
                                    *at_the_end(final())],
    ),
    "attempts were forgotten by a retry": (
        "backward status",
        lambda: [submit(0, 1), read(2, 3, "failed", 2), op("retry", 4, 5, given={"id": "x"}),
                 read(6, 7, "queued", 0), *at_the_end(final(attempts=2, trail=trail(*RETRIED)))],
    ),
    "the answer of another question": (
        "wrong answer", lambda: [submit(0, 1), *at_the_end(final(answer=paid("other", 1).answer))],
    ),
    "an attempt began while paused": (
        "begun while paused",
        lambda: [op("pause", 0, 1, given={"program": "work"}), submit(2, 3), read(4, 5, "queued", 0),
                 read(6, 7, "running", 1), op("resume", 8, 9, given={"program": "work"}), *at_the_end(final())],
    ),
    "the version of before": (
        "wrong version",
        lambda: [op("deploy", -4, -3, given={"program": "work", "version": "v0"}),
                 op("deploy", -2, -1, given={"program": "work", "version": "v1"}), submit(0, 1), *at_the_end(final())],
    ),
    "a stream without an end": (
        "stream", lambda: [submit(0, 1), stream({"kind": "status", "status": "running"}), *at_the_end(final())],
    ),
    "a stream that goes back": (
        "stream",
        lambda: [submit(0, 1), stream({"kind": "status", "status": "running", "attempt": 2},
                                      {"kind": "status", "status": "running"}, DONE), *at_the_end(final())],
    ),
    "a stream whose text is another": (
        "stream",
        lambda: [submit(0, 1), stream({"kind": "partial", "field": "answer", "text": "other"},
                                      {"kind": "field", "field": "answer", "value": ANSWER}, DONE),
                 *at_the_end(final())],
    ),
    "a stream whose result is another": (
        "stream", lambda: [submit(0, 1), stream({"kind": "done", "value": "other"}), *at_the_end(final())],
    ),
    "a batch that yields one twice": (
        "batch",
        lambda: [op("as_completed", 2, 3, given={"batch": "b", "ids": ["x"]}, seen={"executions": [shot(), shot()]}),
                 submit(0, 1), *at_the_end(final())],
    ),
    "a batch that yields what runs": (
        "batch",
        lambda: [op("as_completed", 2, 3, given={"batch": "b", "ids": ["x"]}, seen={"executions": [shot("running")]}),
                 submit(0, 1), *at_the_end(final())],
    ),
    "a wait that misses the end": (
        "late wait",
        lambda: [submit(0, 1), op("result", 2, 22, outcome="failed", given={"id": "x"},
                                  seen={"error": "ExecutionTimedOut", "message": "the wait is over"}),
                 *at_the_end(final())],
    ),
    "a trail that does not verify": (
        "trail", lambda: [submit(0, 1), *at_the_end(final(trail=trail(*COMPLETED, faults=["entry 2 was changed"])))],
    ),
    "a trail that ends twice": (
        "trail", lambda: [submit(0, 1), *at_the_end(final(trail=trail(*COMPLETED, event("cancelled", 1))))],
    ),
    "a retry that left no trace": (
        "retries", lambda: [submit(0, 1), op("retry", 2, 3, given={"id": "x"}), *at_the_end(final())],
    ),
    "a retry that was refused and took effect": (
        "retries",
        lambda: [submit(0, 1), op("retry", 2, 3, outcome="failed", given={"id": "x"}),
                 *at_the_end(final(attempts=2, trail=trail(*RETRIED)))],
    ),
    "a call too many": (
        "calls",
        lambda: [submit(0, 1), *at_the_end(final(), made=calls_made(2, 1))],
    ),
    "two calls for one lost attempt": (
        "calls",
        lambda: [submit(0, 1), fault("kill_worker", 2, 3, pid=7),
                 *at_the_end(final(attempts=2, trail=trail(*RECOVERED)),
                             made=calls_made(2, 2))],
    ),
    "a result without its calls": ("calls", lambda: [submit(0, 1), *at_the_end(final(), made={})]),
    "calls for nothing that is stored": ("calls", lambda: at_the_end(made={"some request": 1})),
    "an attempt was lost without a fault": (
        "lost without a fault", lambda: [submit(0, 1), *at_the_end(final(attempts=2, trail=trail(*RECOVERED)))],
    ),
    "an attempt was lost, and another worker killed": (
        "lost without a fault",
        lambda: [submit(0, 1), fault("kill_worker", 2, 3, pid=8),
                 *at_the_end(final(attempts=2, trail=trail(*RECOVERED)))],
    ),
    "an attempt was lost, and clients cut off": (
        "lost without a fault",
        lambda: [submit(0, 1), fault("cut_postgres", 2, 3, link="clients"),
                 *at_the_end(final(attempts=2, trail=trail(*RECOVERED)))],
    ),
    "an attempt was lost long after the fault": (
        "lost without a fault",
        lambda: [submit(-90, -80), fault("kill_worker", -60, -59, pid=7),
                 *at_the_end(final(attempts=2, trail=trail(*RECOVERED)))],
    ),
    "an attempt was lost as a clock was set": (
        "lost without a fault",
        lambda: [submit(0, 1), fault("step_postgres", 1, 2, ahead_seconds=5.0),
                 *at_the_end(final(attempts=2, trail=trail(*RECOVERED)))],
    ),
    "a client raised an error of a library": (
        "broken operation", lambda: [op("read", 0, 1, outcome="broken", seen={"error": "KeyError", "message": "'e'"})],
    ),
    "a worker ended by itself": ("dead worker", lambda: [fault("worker_ended", 0, 1, pid=7, exit_code=1)]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_history_in_which_a_promise_is_broken_is_rejected(name: str) -> None:
    rule, history = BAD[name]
    found = [str(violation) for violation in check(history()) if violation.rule == rule]
    assert found, f"the rule {rule!r} accepted it"


def test_each_rule_rejects_a_history() -> None:
    assert {rule for rule, _ in BAD.values()} == set(RULES)


# -------------------------------------------------------------------------------------------------------------- trails


@pytest.mark.parametrize(
    ("status", "attempts", "events"),
    [
        ("completed", 2, RECOVERED),
        ("completed", 2, RETRIED),
        ("cancelled", 1, (event("claimed", 1), event("retried", 1, code="x"), event("cancelled", 1))),
        ("queued", 1, (event("claimed", 1), event("lm_call", 1), event("retried", 1, code="x"))),
        ("failed", 1, (event("claimed", 1), event("deadline_exceeded", 1), event("failed", 1))),
    ],
)
def test_a_possible_life_has_no_faults(status: str, attempts: int, events: Sequence[dict[str, Any]]) -> None:
    assert list(trail_faults(trail(*events)["events"], status, attempts)) == []


@pytest.mark.parametrize(
    ("status", "attempts", "events"),
    [
        ("completed", 1, (event("completed", 1),)),
        ("completed", 1, (event("claimed", 2), event("completed", 2))),
        ("completed", 1, (event("claimed", 1), event("claimed", 2), event("completed", 2))),
        ("completed", 1, (event("claimed", 1), event("completed", 1), event("completed", 1))),
        ("queued", 1, (*COMPLETED, event("retried", 1, by="operator"))),
        ("completed", 1, (event("claimed", 1), event("failed", 1))),
        ("completed", 2, COMPLETED),
        ("completed", 2, (*LOST, event("completed", 1))),
    ],
)
def test_an_impossible_life_has_a_fault(status: str, attempts: int, events: Sequence[dict[str, Any]]) -> None:
    assert list(trail_faults(trail(*events)["events"], status, attempts))


def test_only_attempts_that_ended_from_outside_excuse_a_call() -> None:
    failing = (event("claimed", 1), event("failed", 1), event("retried", 1, by="operator"))
    assert abandoned(trail(*failing, event("claimed", 2), event("completed", 2))["events"]) == 0
    assert abandoned(trail(*RECOVERED)["events"]) == 1
    assert abandoned(trail(event("claimed", 1), event("cancelled", 1))["events"]) == 1


# ----------------------------------------------------------------------------------------------------------- recording


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    with Recorder(tmp_path, "a") as recorder, recorder.operation("read", id="x") as seen:
        seen["executions"] = [1]
    [operation] = read_history(tmp_path)
    assert (operation.process, operation.action, operation.outcome) == ("a", "read", "ok")
    assert (operation.given, operation.seen) == ({"id": "x"}, {"executions": [1]})
    assert operation.began <= operation.ended < math.inf
    assert "ok" in seen


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BackendUnavailable("away"), "unknown"),
        (ValidationError("no"), "failed"),
        (KeyError("e"), "broken"),
    ],
)
def test_an_error_says_what_is_known_of_the_outcome(error: Exception, outcome: str, tmp_path: Path) -> None:
    with Recorder(tmp_path, "a") as recorder, recorder.operation("retry", id="x") as seen:
        raise error
    [operation] = read_history(tmp_path)
    assert operation.outcome == outcome
    assert operation.seen["error"] == type(error).__name__
    assert math.isinf(operation.ended) == (outcome == "unknown")
    assert "ok" not in seen


def test_an_invocation_without_a_response_has_an_unknown_outcome(tmp_path: Path) -> None:
    with Recorder(tmp_path, "a") as recorder, recorder.operation("submit", questions=["first"]):
        pass
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    [operation] = operations(lines[:1])
    assert (operation.outcome, operation.ended) == ("unknown", math.inf)
