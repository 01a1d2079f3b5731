"""Failures grouped by cause, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from dspex.client.execution import ExecutionSnapshot
from dspex.store.lifecycle.status import Status

__all__ = ["causes_of", "causes_text"]


def causes_of(executions: Iterable[ExecutionSnapshot]) -> Mapping[str, int]:
    """How many of these executions failed, by the code of the cause, the most frequent first."""
    found = Counter(each.cause_code or "unknown" for each in executions if each.status is Status.FAILED)
    return dict(found.most_common())


def causes_text(causes: Mapping[str, int]) -> str:
    """The causes on one line, each with how many executions failed because of it."""
    return ", ".join(f"{count:,} {code}" for code, count in causes.items())
