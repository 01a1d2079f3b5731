"""The guarantees, checked on a history: pure functions from operations to violations.

Each rule yields a sentence for each violation. The rules use nothing from the database or the workers: they judge what
clients saw, what the model server counted and when the nemesis struck.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import shorten
from typing import Any

from tests.chaos.history.evidence import FINAL, Evidence, Sighting
from tests.chaos.history.losses import unexplained_losses
from tests.chaos.history.paid import paid
from tests.chaos.history.record import Operation
from tests.chaos.history.trails import abandoned, operator_retries, trail_faults

__all__ = ["RULES", "Violation", "check"]

#: What an error says whose submit stored nothing.
NOTHING_SAVED = "nothing was saved"
#: How long a statement may be under way in a network that holds it back.
LATE_SECONDS = 60.0
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


# -------------------------------------------------------------------------------------------------------- submits


def lost_submits(evidence: Evidence) -> Iterator[str]:
    """An execution that a submit returned is there at the end, with the inputs it was given."""
    for id, question in evidence.acknowledged.items():
        if id not in evidence.stored:
            yield f"{id} was acknowledged and is not there ({question!r})"
        elif evidence.stored[id]["question"] != question:
            yield f"{id} was submitted with {question!r} and has {evidence.stored[id]['question']!r}"


def vanished(evidence: Evidence) -> Iterator[str]:
    """An execution that a submit returned is found by every read."""
    for operation in evidence.history:
        if operation.seen.get("error") == "ExecutionNotFound" and operation.given.get("id") in evidence.acknowledged:
            yield f"{operation.process}, {operation.action}: {operation.seen['message']}"


def refused_submits(evidence: Evidence) -> Iterator[str]:
    """A submit that was refused, or said that nothing was stored, stored nothing."""
    stored = {snapshot["question"] for snapshot in evidence.stored.values()}
    perhaps = {question for submit in evidence.submits if not _denied(submit) for question in submit.given["questions"]}
    for submit in filter(_denied, evidence.submits):
        for question in submit.given["questions"]:
            if question in stored and question not in perhaps:
                yield f"{question!r} is stored, though its submit said: {submit.seen['message']}"


def _denied(submit: Operation) -> bool:
    return submit.outcome == "failed" or NOTHING_SAVED in submit.seen.get("message", "")


def strangers(evidence: Evidence) -> Iterator[str]:
    """What is stored was submitted."""
    asked = {question for submit in evidence.submits for question in submit.given["questions"]}
    for id, snapshot in evidence.stored.items():
        if snapshot["question"] not in asked:
            yield f"{id} has the question {snapshot['question']!r}, which no client asked"


def doubled_submits(evidence: Evidence) -> Iterator[str]:
    """A question, submitted once or again under its idempotency key, is one execution."""
    ids: dict[str, set[str]] = defaultdict(set)
    for id, snapshot in evidence.stored.items():
        ids[snapshot["question"]].add(id)
    for id, question in evidence.acknowledged.items():
        ids[question].add(id)
    for question, found in ids.items():
        if len(found) > 1:
            yield f"{question!r} is {len(found)} executions: {', '.join(sorted(found))}"


# ------------------------------------------------------------------------------------------- statuses and results


def unsettled(evidence: Evidence) -> Iterator[str]:
    """At the end everything is final."""
    for id, snapshot in evidence.stored.items():
        if snapshot["status"] not in FINAL:
            yield f"{id} is {snapshot['status']} at attempt {snapshot['attempts']} at the end"


def impossible_statuses(evidence: Evidence) -> Iterator[str]:
    """No status without an attempt that led to it, no result but of what completed, no error but of what failed."""
    for sightings in evidence.sightings.values():
        for sighting in sightings:
            begun, status = sighting.snapshot["attempts"], sighting.status
            if begun < (status in ("running", "completed", "failed")):
                yield f"{sighting.snapshot['id']} was {sighting}"
            if (status == "completed") != (sighting.snapshot["answer"] is not None):
                yield f"{sighting.snapshot['id']} was {status} with the answer {sighting.snapshot['answer']!r}"
            if status == "failed" and sighting.snapshot["error"] is None:
                yield f"{sighting.snapshot['id']} was failed without an error"


def changed_outcomes(evidence: Evidence) -> Iterator[str]:
    """Once final was seen, it stays as it was: for ever if completed, else until a retry."""
    for id in evidence.sightings:
        for before, after in evidence.pairs(id):
            kept = before.status == "completed" or not evidence.retried(before, after)
            if before.is_final and kept and before.outcome != after.outcome:
                yield f"{id} was {before}, then {after}"
                break


def backward_statuses(evidence: Evidence) -> Iterator[str]:
    """Attempts never become fewer, and within an attempt no status returns, except by a retry."""
    for id in evidence.sightings:
        for before, after in evidence.pairs(id):
            if _is_backward(evidence, before, after):
                yield f"{id} was {before}, then {after}"
                break


def _is_backward(evidence: Evidence, before: Sighting, after: Sighting) -> bool:
    if evidence.retried(before, after):
        return after.progress[0] < before.progress[0]
    return after.progress < before.progress


def wrong_answers(evidence: Evidence) -> Iterator[str]:
    """The answer of what completed is the answer to its own question."""
    for id, sightings in evidence.sightings.items():
        stored = evidence.stored.get(id)
        if stored is None or not stored["calls"]:
            continue
        expected = paid(stored["question"], stored["calls"]).answer
        wrong = next((s for s in sightings if s.status == "completed" and s.snapshot["answer"] != expected), None)
        if wrong is not None:
            yield f"{id} was {wrong}; its answer is {expected!r}"


def pauses(evidence: Evidence) -> Iterator[str]:
    """While a program is paused, none of its executions begins an attempt."""
    for pause, resume in pairwise(evidence.of("pause", "resume")):
        if (pause.action, pause.outcome, resume.action) != ("pause", "ok", "resume") or _resumed_late(evidence, pause):
            continue
        seen: dict[str, Sighting] = {}
        for id, sightings in evidence.sightings.items():
            for sighting in sightings:
                if sighting.snapshot["program"] != pause.given["program"]:
                    break
                if pause.ended < sighting.began and sighting.ended < resume.began:
                    first = seen.setdefault(id, sighting)
                    if sighting.progress[0] > first.progress[0]:
                        yield f"{id} began an attempt while paused: it was {first}, then {sighting}"
                        break


def _resumed_late(evidence: Evidence, pause: Operation) -> bool:
    """Whether an earlier resume, of unknown outcome, may take effect after a pause."""
    return any(
        resume.outcome == "unknown" and pause.began - LATE_SECONDS < resume.began < pause.began
        for resume in evidence.of("resume")
    )


def versions(evidence: Evidence) -> Iterator[str]:
    """An execution has the version that was deployed when it was submitted."""
    deploys: dict[str, list[Operation]] = defaultdict(list)
    for deploy in evidence.of("deploy"):
        deploys[deploy.given["program"]].append(deploy)
    for submit in evidence.submits:
        for snapshot in submit.seen.get("executions", ()) if submit.outcome == "ok" else ():
            current = _current(deploys[snapshot["program"]], submit)
            if current and snapshot["version"] not in current:
                yield f"{snapshot['id']} has version {snapshot['version']}; current was {' or '.join(sorted(current))}"


def _current(deploys: Sequence[Operation], submit: Operation) -> set[str]:
    """The versions that were current at some moment of a submit. Deploys come from one client, one at a time."""
    return {
        deploy.given["version"]
        for deploy in deploys
        if deploy.may_have_happened
        and deploy.began < submit.ended
        and not any(d.outcome == "ok" and d.began > deploy.ended and d.ended < submit.began for d in deploys)
    }


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
