"""Rules of submits: what was acknowledged is there, once, and nothing else is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.history.evidence import Evidence
from tests.chaos.history.record import Operation

__all__ = ["doubled_submits", "lost_submits", "refused_submits", "strangers", "vanished"]

#: What an error says whose submit stored nothing.
NOTHING_SAVED = "nothing was saved"


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
