"""The history in the order in which the checker needs it: submits, sightings and trails by execution.

A sighting is one snapshot of an execution that one operation returned: true at some moment between its beginning and
its end. Snapshots are mappings with ``id``, ``program``, ``version``, ``status``, ``attempts``, ``answer``, ``error``
and ``seconds``, from its creation to its end; the reader's have ``question``, ``calls`` and ``trail`` too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.chaos.history.record import Operation

__all__ = ["FINAL", "READER", "Evidence", "Sighting"]

#: The process that reads everything once all faults are over.
READER = "reader"
FINAL = frozenset({"completed", "failed", "cancelled"})
#: Within an attempt: it runs, perhaps waits, then it is queued for another, or over.
_ORDER = {"running": 0, "waiting": 1, "queued": 2, "completed": 3, "failed": 3, "cancelled": 3}


@dataclass(frozen=True, slots=True)
class Sighting:
    """A snapshot, and when and by which process it was taken."""

    process: str
    action: str
    began: float
    ended: float
    snapshot: Mapping[str, Any]

    @property
    def status(self) -> str:
        return str(self.snapshot["status"])

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def progress(self) -> tuple[int, int]:
        """Grows with every transition but an operator's retry."""
        return int(self.snapshot["attempts"]), _ORDER[self.status]

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What must not change once it is final."""
        return self.status, self.snapshot["attempts"], self.snapshot["answer"], self.snapshot["error"]

    def __str__(self) -> str:
        answer = self.snapshot["answer"] or self.snapshot["error"] or ""
        shown = f"{self.status} {answer} at attempt {self.snapshot['attempts']}"
        return f"{shown} ({self.process}, {self.action}, {self.began:.3f} to {self.ended:.3f})"


class Evidence:
    """A history, indexed."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self.history = history

    def of(self, *actions: str, outcome: str | None = None) -> list[Operation]:
        """The operations of some kinds, in order."""
        return [o for o in self.history if o.action in actions and outcome in (None, o.outcome)]

    @cached_property
    def submits(self) -> list[Operation]:
        """Every submit; the questions of each are in ``given["questions"]``, the ids in ``seen["ids"]``."""
        return self.of("submit", "submit_many")

    @cached_property
    def acknowledged(self) -> dict[str, str]:
        """The question of each id that a submit returned."""
        return {
            id: question
            for submit in self.submits
            if submit.outcome == "ok"
            for id, question in zip(submit.seen["ids"], submit.given["questions"], strict=True)
        }

    @cached_property
    def stored(self) -> dict[str, Mapping[str, Any]]:
        """The reader's snapshot of every execution that is stored at the end, by id."""
        return {
            snapshot["id"]: snapshot
            for read in self.of("read_all", outcome="ok")
            for snapshot in read.seen["executions"]
        }

    @cached_property
    def made(self) -> Mapping[str, int]:
        """How many calls of each request the model server saw."""
        counts: dict[str, int] = {}
        for read in self.of("count_calls", outcome="ok"):
            counts |= read.seen["made"]
        return counts

    @cached_property
    def sightings(self) -> dict[str, list[Sighting]]:
        """The sightings of each execution, in the order in which they ended."""
        found: dict[str, list[Sighting]] = defaultdict(list)
        for operation in self.history:
            for snapshot in operation.seen.get("executions", ()) if operation.outcome == "ok" else ():
                sighting = Sighting(operation.process, operation.action, operation.began, operation.ended, snapshot)
                found[snapshot["id"]].append(sighting)
        for sightings in found.values():
            sightings.sort(key=lambda sighting: sighting.ended)
        return found

    @cached_property
    def retries(self) -> dict[str, list[Operation]]:
        """The operator's retries of each execution that took effect, or may have."""
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.of("retry"):
            if operation.may_have_happened:
                found[operation.given["id"]].append(operation)
        return found

    def retried(self, before: Sighting, after: Sighting) -> bool:
        """Whether a retry may have taken effect between two sightings."""
        id = before.snapshot["id"]
        return any(r.began < after.ended and r.ended > before.began for r in self.retries.get(id, ()))

    def pairs(self, id: str) -> Iterator[tuple[Sighting, Sighting]]:
        """Every two sightings of an execution of which one ended before the other began."""
        sightings = self.sightings[id]
        for later in sightings:
            for earlier in sightings:
                if earlier.ended >= later.began:
                    break
                yield earlier, later
