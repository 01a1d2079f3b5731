"""Whether an audit trail is a possible life of an execution.

An event here is a mapping with ``kind``, ``attempt`` and ``data``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["SUBMITTED", "abandoned", "losses", "operator_retries", "trail_faults"]

Event = Mapping[str, Any]

SUBMITTED = ["signature_compilation", "input_validation", "submitted"]
_OVER = {"completed": "completed", "failed": "failed", "cancelled": "cancelled"}
_AGAIN = frozenset({"retried", "recovered"})
#: What ends an attempt before its program does.
_FROM_OUTSIDE = frozenset({"lease_expired", "deadline_exceeded", "recovered", "cancelled"})


def trail_faults(events: Sequence[Event], status: str, attempts: int) -> Iterator[str]:
    """Each event that cannot follow the events before it; and where the trail disagrees with the execution."""
    kinds = [event["kind"] for event in events]
    if kinds[: len(SUBMITTED)] != SUBMITTED:
        yield f"its trail begins with {kinds[: len(SUBMITTED)]}"
        return
    now, attempt = "queued", 0
    for event in events[len(SUBMITTED) :]:
        following = _next(now, event)
        if following is None or event["attempt"] != attempt + (event["kind"] == "claimed"):
            yield f"in its trail {event['kind']} of attempt {event['attempt']} follows {now} of attempt {attempt}"
            return
        now, attempt = following, event["attempt"]
    if (now, attempt) != (status, attempts):
        yield f"is {status} at attempt {attempts}, its trail ends {now} at attempt {attempt}"


def losses(events: Sequence[Event]) -> list[Event]:
    """The events of attempts that were taken from a worker that was found dead."""
    return [event for event in events if event["kind"] == "lease_expired"]


def abandoned(events: Sequence[Event]) -> int:
    """How many attempts ended from outside: each may have left one model call in flight."""
    return sum(any(event["kind"] in _FROM_OUTSIDE for event in attempt) for attempt in _attempts(events))


def operator_retries(events: Sequence[Event]) -> int:
    """How many times an operator queued it again."""
    return sum(_by_operator(event) for event in events)


#: What may happen to a parked execution.
_WAITING = {"approved": "waiting", "rejected": "waiting", "resumed": "queued", "failed": "failed"}


def _next(now: str, event: Event) -> str | None:
    """The status after an event; None for one that cannot happen now."""
    kind = event["kind"]
    if kind == "claimed":
        return "running" if now == "queued" else None
    if kind == "retried" and _by_operator(event):
        return "queued" if now in ("failed", "cancelled") else None
    if kind == "cancelled":
        return "cancelled" if now in ("queued", "running", "waiting") else None
    if now == "waiting":
        return _WAITING.get(kind)
    if now != "running":
        return None
    if kind in _AGAIN:
        return "queued"
    if kind == "parked":
        return "waiting"
    return _OVER.get(kind, "running")


def _attempts(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """The events of each attempt, from its claim on."""
    claims = [number for number, event in enumerate(events) if event["kind"] == "claimed"]
    for begin, end in pairwise([*claims, len(events)]):
        yield events[begin:end]


def _by_operator(event: Event) -> bool:
    return bool(event["kind"] == "retried" and event["data"].get("by") == "operator")
