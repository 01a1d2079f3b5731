"""Whether audit events are a possible life of an execution: each entry is one legal transition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from dspex.store.lifecycle.status import Status

__all__ = ["TRANSITION_KINDS", "Life", "follow", "last_status"]

#: The events that are transitions: the statuses before, and the status after.
_TRANSITIONS = {
    "claimed": ({Status.QUEUED}, Status.RUNNING),
    "parked": ({Status.RUNNING}, Status.WAITING),
    "resumed": ({Status.WAITING}, Status.QUEUED),
    "completed": ({Status.RUNNING}, Status.COMPLETED),
    "failed": ({Status.RUNNING, Status.WAITING}, Status.FAILED),
    "cancelled": ({Status.QUEUED, Status.RUNNING, Status.WAITING}, Status.CANCELLED),
    "recovered": ({Status.RUNNING}, Status.QUEUED),
    "retried": ({Status.RUNNING, Status.FAILED, Status.CANCELLED}, Status.QUEUED),
}
_SUBMITTED = "submitted"
#: Values were sealed again with another key: no transition.
_RESEALED = "resealed"
#: A judgement of a final execution: no transition.
_FEEDBACK = "feedback"
TRANSITION_KINDS = frozenset(_TRANSITIONS)
#: Another attempt, or a wait, was to follow when the cancel came: the entry has both events.
_CANCELLED_INSTEAD = ({"retried", "recovered", "parked"}, "cancelled")


@dataclass(frozen=True, slots=True)
class Life:
    """What a trail ends with: the status, and the number of the attempt."""

    status: Status = Status.QUEUED
    attempt: int = 0


def follow(entries: Sequence[tuple[int, str]]) -> tuple[Life, list[str]]:
    """Follow entries, each an attempt and its events as JSON text. Returns where they end, and the first fault."""
    life = Life()
    for number, (attempt, events) in enumerate(entries, 1):
        kinds = _kinds(events)
        if number == 1:
            following = life if kinds[-1:] == [_SUBMITTED] and not _transitions(kinds) else None
        else:
            following = _after(life, kinds)
        if following is None or attempt != following.attempt:
            return life, [
                f"entry {number} is not legal: {', '.join(kinds) or 'no events'} of attempt {attempt}"
                + (f" after {life.status} at attempt {life.attempt}" if number > 1 else "")
            ]
        life = following
    return life, []


def last_status(events: Iterable[str]) -> Status | None:
    """The status that entries lead to, given from the last to the first; None without a transition."""
    for text in events:
        kinds = _kinds(text)
        if kinds not in ([_RESEALED], [_FEEDBACK]):
            last = kinds[-1] if kinds else ""
            return Status.QUEUED if last == _SUBMITTED else _TRANSITIONS[last][1] if last in _TRANSITIONS else None
    return None


def _after(life: Life, kinds: Sequence[str]) -> Life | None:
    """What follows from the events of one entry; None when they cannot happen now."""
    if kinds == [_RESEALED] or (kinds == [_FEEDBACK] and life.status.is_final):
        return life
    *earlier, last = _transitions(kinds) or [""]
    if last not in _TRANSITIONS or kinds[-1] != last or _SUBMITTED in kinds:
        return None
    replaced, instead = _CANCELLED_INSTEAD
    if earlier and not (len(earlier) == 1 and earlier[0] in replaced and last == instead):
        return None
    before, after = _TRANSITIONS[last]
    if life.status not in before:
        return None
    return Life(after, life.attempt + (last == "claimed"))


def _transitions(kinds: Sequence[str]) -> list[str]:
    return [kind for kind in kinds if kind in _TRANSITIONS]


def _kinds(events: str) -> list[str]:
    try:
        return [str(event["kind"]) for event in from_json(events)]
    except (ValueError, TypeError, KeyError):
        return []
