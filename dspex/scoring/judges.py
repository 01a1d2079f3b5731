"""Judges: programs that score the outputs of others, as metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["judge", "judge_inputs", "judge_of"]

#: The name of a metric that is a program. No function of a module can be named so.
_JUDGE = re.compile(r"judge\((?P<program>[A-Za-z_][A-Za-z0-9_.-]*)(@(?P<version>[A-Za-z0-9_.-]+))?\)")


def judge(program: str, version: str | None = None) -> str:
    """The metric that a deployed program is: its output ``score`` is the score, its output ``feedback``, if it has one,
    the feedback.

    Its inputs are found by name: an output, an input or a label of the row with the name, in this order;
    ``expected_NAME`` is the label NAME, ``predicted_NAME`` the output NAME. Its model calls are part of the execution.
    """
    return f"judge({program})" if version is None else f"judge({program}@{version})"


def judge_of(metric: str) -> tuple[str, str | None] | None:
    """The program and the version that a metric names; None for another metric."""
    found = _JUDGE.fullmatch(metric)
    return None if found is None else (found["program"], found["version"])


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
