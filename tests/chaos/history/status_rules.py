"""Rules of statuses, results and versions: how what clients see of an execution may change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.chaos.history.evidence import FINAL, Evidence, Sighting
from tests.chaos.history.paid import paid
from tests.chaos.history.record import Operation

__all__ = [
    "backward_statuses",
    "changed_outcomes",
    "impossible_statuses",
    "pauses",
    "unsettled",
    "versions",
    "wrong_answers",
]

#: How long a statement may be under way in a network that holds it back.
LATE_SECONDS = 60.0


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
            if begun < (status in ("running", "waiting", "completed", "failed")):
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
