"""The guarantees, checked on a history: pure functions from operations to violations.

Each rule yields a sentence for each violation. The rules use nothing from the database or the workers: they judge what
clients saw, what the model server counted and when the nemesis struck.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from tests.chaos.history.evidence import FINAL, Evidence
from tests.chaos.history.losses import unexplained_losses
from tests.chaos.history.paid import paid
from tests.chaos.history.record import Operation
from tests.chaos.history.status_rules import (
    backward_statuses,
    changed_outcomes,
    impossible_statuses,
    pauses,
    unsettled,
    versions,
    wrong_answers,
)
from tests.chaos.history.submit_rules import (
    doubled_submits,
    lost_submits,
    refused_submits,
    strangers,
    vanished,
)
from tests.chaos.history.trails import abandoned, operator_retries, trail_faults

__all__ = ["RULES", "Violation", "check"]

#: How long a wait may go on after the end of an execution: hints are lost, and Postgres is asked every five seconds.
LATE_WAIT_SECONDS = 12.0
TEXT_MOST = 400

Rule = Callable[[Evidence], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that does not hold, and where."""

    rule: str
    what: str

    def __str__(self) -> str:
        return shorten(f"{self.rule}: {self.what}", TEXT_MOST)


def check(history: Sequence[Operation]) -> list[Violation]:
    """Everything that is wrong with a history."""
    evidence = Evidence(history)
    return [Violation(name, what) for name, rule in RULES.items() for what in rule(evidence)]


# --------------------------------------------------------------------------------------------- streams and batches


def streams(evidence: Evidence) -> Iterator[str]:
    """A stream has no status twice or out of order, ends once, and its text is what was recorded."""
    for operation in evidence.of("stream", outcome="ok"):
        id, events = operation.given["id"], operation.seen["events"]
        for what in _stream_faults(events):
            yield f"the stream of {id} {what}"
        answer = next((event["value"] for event in events if event["kind"] == "done"), None)
        if answer is not None and id in evidence.stored and answer != evidence.stored[id]["answer"]:
            yield f"the stream of {id} ended with {answer!r}; {evidence.stored[id]['answer']!r} is recorded"


def _stream_faults(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    last = [event["kind"] in ("done", "error") for event in events]
    if last != [False] * (len(events) - 1) + [True]:
        yield f"does not end with its one last event: {[event['kind'] for event in events]}"
        return
    progress = [(e["attempt"], e["status"] != "running") for e in events if e["kind"] == "status"]
    if progress != sorted(set(progress)):
        yield f"has statuses out of order: {[(e['attempt'], e['status']) for e in events if e['kind'] == 'status']}"
    texts: dict[str, str] = {}
    for event in events:
        if event["kind"] == "reset":
            texts.clear()
        elif event["kind"] == "partial":
            texts[event["field"]] = texts.get(event["field"], "") + event["text"]
        elif event["kind"] == "field" and not str(event["value"]).startswith(texts.get(event["field"], "")):
            yield f"wrote {texts[event['field']]!r} and ended with {event['value']!r}"


def batches(evidence: Evidence) -> Iterator[str]:
    """Waiting for a batch yields each of its executions once, all of them final."""
    for operation in evidence.of("as_completed", outcome="ok"):
        counts = Counter(snapshot["id"] for snapshot in operation.seen["executions"])
        if counts != Counter(operation.given["ids"]):
            missing = set(operation.given["ids"]) - set(counts)
            yield f"batch {operation.given['batch']}: {len(missing)} missing, {sum(counts.values())} yielded"
        if any(snapshot["status"] not in FINAL for snapshot in operation.seen["executions"]):
            yield f"batch {operation.given['batch']} yielded an execution that is not final"


def late_waits(evidence: Evidence) -> Iterator[str]:
    """Waiting ends soon after what is waited for, however many hints were lost or forged."""
    steps = [fault.began for fault in evidence.of("fault") if fault.given["kind"] == "step_postgres"]
    acknowledged = {id: s.ended for s in evidence.submits if s.outcome == "ok" for id in s.seen["ids"]}
    for wait in evidence.of("result", "stream", "as_completed"):
        ids = wait.given.get("ids") or [wait.given["id"]]
        if wait.outcome not in ("ok", "failed") or not all(_finished_once(evidence, id) for id in ids):
            continue
        begun = min(acknowledged.get(id, math.inf) for id in ids)
        if any(begun < step < wait.ended for step in steps):
            continue
        ready = max(wait.began, *(acknowledged.get(id, math.inf) + evidence.stored[id]["seconds"] for id in ids))
        if wait.ended - ready > LATE_WAIT_SECONDS:
            yield f"{wait.process}, {wait.action} of {ids[0]}: it went on for {wait.ended - ready:.1f} s after the end"


def _finished_once(evidence: Evidence, id: str) -> bool:
    """Whether it is known when an execution became final."""
    return id in evidence.stored and id not in evidence.retries and evidence.stored[id]["seconds"] is not None


# ------------------------------------------------------------------------------------------------ trails and calls


def trails(evidence: Evidence) -> Iterator[str]:
    """Every trail verifies, is a possible life, and agrees with what the execution is."""
    for id, snapshot in evidence.stored.items():
        trail = snapshot["trail"]
        faults = [*trail["faults"], *trail_faults(trail["events"], snapshot["status"], snapshot["attempts"])]
        yield from (f"{id}: {fault}" for fault in faults)


def retries(evidence: Evidence) -> Iterator[str]:
    """Each acknowledged retry is in the trail, and no other."""
    for id, snapshot in evidence.stored.items():
        known = evidence.retries.get(id, ())
        least, most = sum(retry.outcome == "ok" for retry in known), len(known)
        found = operator_retries(snapshot["trail"]["events"])
        if not least <= found <= most:
            yield f"{id}: {least} to {most} retries were acknowledged, its trail has {found}"


def calls(evidence: Evidence) -> Iterator[str]:
    """What completed made its calls; beyond them, an attempt that ended from outside cost one call at most."""
    left = dict(evidence.made)
    for id, snapshot in evidence.stored.items():
        made = [left.pop(request, 0) for request in paid(snapshot["question"], snapshot["calls"]).requests]
        repeated = sum(max(0, count - 1) for count in made)
        excused = abandoned(snapshot["trail"]["events"])
        if snapshot["status"] == "completed" and 0 in made:
            yield f"{id} completed, its calls were made {made} times"
        if repeated > excused:
            yield f"{id}: its calls were made {made} times, {excused} of {snapshot['attempts']} attempts were cut short"
    if left:
        yield f"the model server saw {len(left)} requests of no stored execution"


# ---------------------------------------------------------------------------------------------------- the processes


def broken_operations(evidence: Evidence) -> Iterator[str]:
    """Clients raise DSPex's own errors only."""
    for operation in evidence.history:
        if operation.outcome == "broken":
            yield f"{operation.process}, {operation.action}: {operation.seen['error']}: {operation.seen['message']}"


def dead_workers(evidence: Evidence) -> Iterator[str]:
    """No worker ends unless it is killed."""
    for fault in evidence.of("fault"):
        if fault.given["kind"] == "worker_ended":
            yield f"worker {fault.given['pid']} ended by itself with exit code {fault.given['exit_code']}"


RULES: Mapping[str, Rule] = {
    "lost submit": lost_submits,
    "vanished": vanished,
    "refused submit stored": refused_submits,
    "stranger": strangers,
    "doubled submit": doubled_submits,
    "not final": unsettled,
    "impossible status": impossible_statuses,
    "changed outcome": changed_outcomes,
    "backward status": backward_statuses,
    "wrong answer": wrong_answers,
    "begun while paused": pauses,
    "wrong version": versions,
    "stream": streams,
    "batch": batches,
    "late wait": late_waits,
    "trail": trails,
    "retries": retries,
    "calls": calls,
    "lost without a fault": unexplained_losses,
    "broken operation": broken_operations,
    "dead worker": dead_workers,
}
