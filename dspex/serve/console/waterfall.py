"""An execution's audit trail as a waterfall: its time in the queue, its attempts, and what each of them did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dspex.client.audit_trail import AuditEvent
from dspex.serve.console.shown_text import brief, milliseconds

__all__ = ["MOST_BARS", "Bar", "waterfall"]

#: The most bars of a page; what is left out is counted.
MOST_BARS = 300
#: The narrowest bar, in hundredths of the width: a short call must be seen.
NARROWEST = 0.6
#: Events that put an execution into the queue, and events that end an attempt.
_QUEUED = frozenset({"submitted", "retried", "recovered", "resumed"})
_ENDS = frozenset({"completed", "failed", "cancelled", "retried", "recovered", "parked"})
_BAD = frozenset({"failed", "lease_expired", "deadline_exceeded"})
#: The names of events that are not their kind.
_LABELS = {"lm_call": "model call"}
#: What is shown of an event beside its kind, most useful first.
_KEYS = ("model", "tool", "for", "adapter", "code", "cause", "error", "reason", "by", "worker", "host", "prompt_tokens",
         "completion_tokens", "cost_usd", "replayed", "delay_seconds", "fields")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of the waterfall; ``begin`` and ``width`` are in hundredths of the whole time."""

    label: str
    kind: str
    begin: float
    width: float
    at: str
    took: str
    about: str
    depth: int


@dataclass(frozen=True, slots=True)
class _Span:
    label: str
    kind: str
    begin: datetime
    end: datetime
    about: str = ""
    depth: int = 0
    has_length: bool = True


def waterfall(trail: Sequence[AuditEvent], now: datetime, *, is_final: bool) -> tuple[list[Bar], int]:
    """The bars of an execution in order of time, and how many are left out."""
    spans = sorted(_spans(trail, now, is_final=is_final), key=lambda span: (span.begin, span.depth))
    if not spans:
        return [], 0
    begin = spans[0].begin
    whole = max((max(span.end for span in spans) - begin).total_seconds(), 1e-6)
    shown = spans[:MOST_BARS]
    return [_bar(span, begin, whole) for span in shown], len(spans) - len(shown)


def _spans(trail: Sequence[AuditEvent], now: datetime, *, is_final: bool) -> Iterator[_Span]:
    queued_at: datetime | None = None
    claimed: AuditEvent | None = None
    parked: AuditEvent | None = None
    for event in trail:
        if event.kind == "claimed":
            if queued_at is not None:
                yield _Span("waiting", "queue", queued_at, event.at)
            queued_at, claimed = None, event
        elif event.kind in _ENDS and claimed is not None:
            look = "attempt" if event.kind in ("completed", "cancelled", "parked") else "bad"
            yield _Span(f"attempt {claimed.attempt}", look, claimed.at, event.at, _about(claimed))
            claimed = None
        if parked is not None and event.kind in (*_ENDS, "resumed"):
            yield _Span("parked", "queue", parked.at, event.at, _about(parked))
            parked = None
        if event.kind == "parked":
            parked = event
        if event.kind in _QUEUED:
            queued_at = event.at
        yield _event(event)
    if claimed is not None:
        yield _Span(f"attempt {claimed.attempt}", "live", claimed.at, max(now, claimed.at), _about(claimed))
    elif parked is not None and not is_final:
        yield _Span("parked", "queue live", parked.at, max(now, parked.at), _about(parked))
    elif queued_at is not None and not is_final:
        yield _Span("waiting", "queue live", queued_at, max(now, queued_at))


def _event(event: AuditEvent) -> _Span:
    took = event.duration_ms
    bad = event.kind in _BAD or bool(event.data.get("error")) or event.data.get("valid") is False
    look = "bad" if bad else "call" if event.kind == "lm_call" else "step"
    end = event.at + timedelta(milliseconds=took or 0)
    label = _LABELS.get(event.kind, event.kind.replace("_", " "))
    about = "" if event.kind == "claimed" else _about(event)  # its attempt has the same
    return _Span(label, look, event.at, end, about, 1, took is not None)


def _bar(span: _Span, begin: datetime, whole: float) -> Bar:
    offset, length = (span.begin - begin).total_seconds(), (span.end - span.begin).total_seconds()
    width = max(length / whole * 100, NARROWEST)
    return Bar(
        label=span.label, kind=span.kind, begin=round(min(offset / whole * 100, 100 - width if width < 100 else 0), 3),
        width=round(min(width, 100.0), 3), at=f"+{milliseconds(offset * 1000)}",
        took=milliseconds(length * 1000) if span.has_length else "", about=span.about, depth=span.depth,
    )  # fmt: skip


def _about(event: AuditEvent) -> str:
    found = [(key, event.data[key]) for key in _KEYS if event.data.get(key) not in (None, "", [], False)]
    return " · ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in found[:4])


def _value(value: Any) -> str:
    return brief(value, 60)
