"""docs/reference/audit-events.md: every kind of event that the source records."""

from __future__ import annotations

import re

from docs.generate.sources import sources

__all__ = ["page"]

_HEAD = """\
# Audit events

<!-- Made by `python -m docs.generate` from what the source records: do not edit. -->

`execution.audit_trail` has the events of an execution in order of time, each with `kind`, `at` (UTC, by Postgres'
clock), `attempt` (0 before the first) and `data`. One that took time has `data["duration_ms"]`, and `at` is when it
began. No event holds an input, an output, an argument of a tool or a secret. How they are chained:
[lifecycle](../explanation/lifecycle.md#the-audit-trail).

| kind | what happened | data |
|---|---|---|
"""

#: What each kind means, and the keys of its data that are not always there in parentheses.
_KINDS = {
    "signature_compilation": ("the inputs' signature was compiled", "fingerprint"),
    "input_validation": ("the inputs were checked, and fit", "bytes, duration_ms"),
    "submitted": ("the execution was stored", "program, version, priority"),
    "claimed": ("a worker began an attempt", "worker"),
    "traced": ("the attempt is in this OpenTelemetry trace", "trace_id"),
    "adapter_execution": (
        "an adapter hosted the program: one event for each adapter that was tried",
        "adapter, module, duration_ms, (error)",
    ),
    "lm_call": (
        "a model was called, or its answer was replayed from the journal",
        "model, request, (duration_ms, prompt_tokens, completion_tokens, cost_usd, request_id, replayed, repair, "
        "error)",
    ),
    "tool_call": ("the program called a tool", "tool, ok, duration_ms, (error)"),
    "manual_action": ("an action around the program has ended", "action, ok, (code, on_failure)"),
    "output_validation": (
        "the outputs were checked; a `repair` sends an answer that does not fit back to the model",
        "valid, (repairs, fields, repair, duration_ms)",
    ),
    "result_serialization": ("the outputs were written as JSON", "bytes, duration_ms"),
    "completed": ("the result was recorded: the last event", ""),
    "retried": (
        "the attempt failed, or was handed back at a limit, and another follows; or somebody asked for another",
        "code, delay_seconds, or by",
    ),
    "failed": (
        "the failure was recorded: the last event, unless somebody asks for another attempt",
        "code, (cause, by)",
    ),
    "cancel_requested": ("the worker saw that it was to be cancelled", "requested_at"),
    "cancelled": ("the cancellation was recorded: the last event, with the same exception", "(requested_at, by)"),
    "lease_expired": (
        "the worker died, hung or was cut off, and lost the attempt",
        "worker, host, pid, attempt, last_heartbeat_at, deadline_at, found_at",
    ),
    "deadline_exceeded": (
        "the attempt outlived its deadline and its worker did not end it",
        "worker, host, pid, attempt, last_heartbeat_at, deadline_at, found_at",
    ),
    "recovered": ("the execution was queued again after a worker was lost or stopped", "reason, or by"),
}  # fmt: skip
_RECORDED = (
    re.compile(r"\.record\(\s*\"(\w+)\""),
    re.compile(r"\{\"kind\" ?: ?\"(\w+)\""),
    re.compile(r"ELSE '(\w+)' END AS kind"),
    re.compile(r"THEN '(\w+)' ELSE '\w+' END AS kind"),
    re.compile(r"THEN '(\w+)' ELSE j\.next END"),
)


def page() -> str:
    """The text of the page. Raises LookupError when the source and the page do not know the same kinds."""
    recorded = {kind for text in sources() for pattern in _RECORDED for kind in pattern.findall(text)}
    if recorded != set(_KINDS):
        raise LookupError(f"docs/generate/audit_events.py and the source differ in {recorded ^ set(_KINDS)}")
    return _HEAD + "".join(f"| `{kind}` | {meaning} | {_data(keys)} |\n" for kind, (meaning, keys) in _KINDS.items())


def _data(keys: str) -> str:
    return re.sub(r"\b(?!or\b)(\w+)\b", r"`\1`", keys)
