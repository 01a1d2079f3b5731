"""Metrics: functions that score the outputs of a program by the labels of a dataset, from 0 to 1.

They take what a metric of DSPy takes, ``(example, prediction, trace=None)``, and so serve ``dspy.Evaluate``, too. Each
compares the outputs that the example has labels for, and gives their mean.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from dspex.scoring.judges import judge

__all__ = ["BUILT_IN_METRICS", "contains", "exact", "f1", "judge", "numeric"]

_WORD = re.compile(r"\w+")
#: The relative difference up to which two numbers are the same.
NEAR = 1e-6


def exact(example: Any, prediction: Any, trace: object = None) -> float:
    """1 if all outputs equal their labels; text is compared without the space around it."""
    return min(_scores(example, prediction, lambda label, output: float(_bare(label) == _bare(output))))


def contains(example: Any, prediction: Any, trace: object = None) -> float:
    """The share of outputs whose text contains the label, in any case."""
    return _mean(_scores(example, prediction, lambda label, output: float(_text(label) in _text(output))))


def numeric(example: Any, prediction: Any, trace: object = None) -> float:
    """The share of outputs that are the same number as the label; text is read as a number."""
    return _mean(_scores(example, prediction, _same_number))


def f1(example: Any, prediction: Any, trace: object = None) -> float:
    """The words that outputs and labels have in common: the harmonic mean of precision and recall."""
    return _mean(_scores(example, prediction, _word_overlap))


BUILT_IN_METRICS: Mapping[str, Callable[..., float]] = {
    "contains": contains, "exact": exact, "f1": f1, "numeric": numeric,
}  # fmt: skip


def _scores(example: Any, prediction: Any, score: Callable[[Any, Any], float]) -> list[float]:
    """The score of each output that has a label. Raises ValueError when none has."""
    labels, outputs = dict(example.items()), dict(prediction.items())
    names = [name for name in outputs if name in labels]
    if not names:
        raise ValueError(
            f"no label has the name of an output: the outputs are {', '.join(outputs)}, the example has "
            f"{', '.join(labels)}"
        )
    return [score(labels[name], outputs[name]) for name in names]


def _mean(scores: list[float]) -> float:
    return sum(scores) / len(scores)


def _bare(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _text(value: Any) -> str:
    return str(value).strip().casefold()


def _same_number(label: Any, output: Any) -> float:
    try:
        return float(math.isclose(float(label), float(output), rel_tol=NEAR, abs_tol=NEAR))
    except (TypeError, ValueError):
        return 0.0


def _word_overlap(label: Any, output: Any) -> float:
    expected, found = Counter(_WORD.findall(_text(label))), Counter(_WORD.findall(_text(output)))
    common = sum((expected & found).values())
    if not common:
        return float(not expected and not found)
    return 2 * common / (sum(expected.values()) + sum(found.values()))
