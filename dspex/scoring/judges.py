"""Judges: programs that score the outputs of others, as metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["JUDGE", "judge", "judge_inputs", "judge_of"]

#: What the name of a metric begins with that is a program.
JUDGE = "judge:"


def judge(program: str, version: str | None = None) -> str:
    """The metric that a deployed program is: its output ``score`` is the score, its output ``feedback``, if it has one,
    the feedback.

    Its inputs are found by name: an output, an input or a label of the row with the name, in this order;
    ``expected_NAME`` is the label NAME, ``predicted_NAME`` the output NAME. Its model calls are part of the execution.
    """
    return f"{JUDGE}{program}" if version is None else f"{JUDGE}{program}@{version}"


def judge_of(metric: str) -> tuple[str, str | None] | None:
    """The program and the version that a metric names; None for another metric."""
    if not metric.startswith(JUDGE):
        return None
    name, _, version = metric.removeprefix(JUDGE).partition("@")
    return name, version or None


def judge_inputs(
    names: Iterable[str], inputs: Mapping[str, Any], labels: Mapping[str, Any], outputs: Mapping[str, Any]
) -> dict[str, Any]:
    """The inputs of a judge, as far as the row has them."""
    known = {
        **labels,
        **inputs,
        **outputs,
        **{f"expected_{name}": value for name, value in labels.items()},
        **{f"predicted_{name}": value for name, value in outputs.items()},
    }
    return {name: known[name] for name in names if name in known}
