"""Two evaluations side by side: rows that got worse first, and whether the difference is more than noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspex.client.improvement.evaluation import Evaluation, EvaluationRow
from dspex.errors import FieldError, ValidationError
from dspex.scoring.score_statistics import CONFIDENCE, PairedDifference, paired_difference

__all__ = [
    "RowDifference",
    "ScoreComparison",
    "changed_fields",
    "compared",
    "sentence_of",
    "side_by_side",
    "verdict_of",
]


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A row of the dataset in two evaluations: the mean scores of its executions, and the outputs that differ.

    ``fields`` has, for each output that differs between the first executions, the value before and after.
    """

    index: int
    inputs: Mapping[str, Any]
    labels: Mapping[str, Any]
    before: Sequence[EvaluationRow]
    after: Sequence[EvaluationRow]
    score_before: float
    score_after: float
    fields: Mapping[str, tuple[Any, Any]]

    @property
    def difference(self) -> float:
        """The score after, minus the score before."""
        return self.score_after - self.score_before


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """What changed between two evaluations on the same dataset.

    ``rows`` are those with a score on both sides, the worst change first; ``left_out`` counts the others.
    ``difference`` has the statistics; None without any row.
    """

    before: Evaluation
    after: Evaluation
    rows: Sequence[RowDifference]
    left_out: int
    difference: PairedDifference | None

    @property
    def regressions(self) -> Sequence[RowDifference]:
        """The rows that got worse, the worst first."""
        return [row for row in self.rows if row.difference < 0]

    @property
    def improvements(self) -> Sequence[RowDifference]:
        """The rows that got better, the best first."""
        return [row for row in reversed(self.rows) if row.difference > 0]

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``noise`` or ``unknown``."""
        return verdict_of(self.difference)

    @property
    def sentence(self) -> str:
        """The result in words."""
        before, after = ([getattr(row, name) for row in self.rows] for name in ("score_before", "score_after"))
        return sentence_of(self.difference, (self.before.version, before), (self.after.version, after))


def verdict_of(found: PairedDifference | None) -> str:
    """``better``, ``worse``, ``noise`` or ``unknown``."""
    if found is None:
        return "unknown"
    return "noise" if not found.is_more_than_noise else "better" if found.mean > 0 else "worse"


def sentence_of(
    found: PairedDifference | None, before: tuple[str, Sequence[float]], after: tuple[str, Sequence[float]]
) -> str:
    """A difference in words; ``before`` and ``after`` are versions with their scores."""
    if found is None:
        return "No row has a score in both evaluations."
    change = f"{abs(found.mean):.3f} {'more' if found.mean >= 0 else 'less'}"
    meaning = {
        "better": "It is better, and that is more than noise.",
        "worse": "It is worse, and that is more than noise.",
        "noise": "The difference may be noise.",
    }[verdict_of(found)]
    return (
        f"Version {after[0]} scores {_mean(after[1]):.3f}, {change} than the {_mean(before[1]):.3f} of version "
        f"{before[0]} ({CONFIDENCE:.0%} interval {found.low:+.3f} to {found.high:+.3f}; {found.better} "
        f"rows better, {found.worse} worse, {found.same} the same; sign test p = {found.p_value:.3g}). {meaning}"
    )


def compared(before: Evaluation, after: Evaluation) -> ScoreComparison:
    """See :meth:`Evaluation.compare`."""
    if before.dataset.stored.id != after.dataset.stored.id:
        expected = f"an evaluation on dataset {before.dataset.name} {before.dataset.version}"
        fault = FieldError("other", expected, f"{after.dataset.name} {after.dataset.version}")
        raise ValidationError.of("comparison", [fault])
    return side_by_side(before, after, before.rows(), after.rows())


def side_by_side(
    before: Evaluation, after: Evaluation, rows_before: Iterable[EvaluationRow], rows_after: Iterable[EvaluationRow]
) -> ScoreComparison:
    """The comparison of these rows, paired by their place in the dataset."""
    old, new = _by_index(rows_before), _by_index(rows_after)
    both = [index for index in old if index in new]
    rows = [row for index in both if (row := _difference(old[index], new[index])) is not None]
    rows.sort(key=lambda row: (row.difference, row.index))
    found = paired_difference([row.difference for row in rows]) if rows else None
    return ScoreComparison(before, after, rows, len({*old, *new}) - len(rows), found)


def _by_index(rows: Iterable[EvaluationRow]) -> Mapping[int, Sequence[EvaluationRow]]:
    found: defaultdict[int, list[EvaluationRow]] = defaultdict(list)
    for row in rows:
        found[row.index].append(row)
    return found


def _difference(before: Sequence[EvaluationRow], after: Sequence[EvaluationRow]) -> RowDifference | None:
    """None when one side has no score at all."""
    scores = [[row.score for row in side if row.score is not None] for side in (before, after)]
    if not all(scores):
        return None
    first = before[0]
    fields = changed_fields(before[0].outputs, after[0].outputs)
    return RowDifference(
        first.index, first.inputs, first.labels, before, after, _mean(scores[0]), _mean(scores[1]), fields
    )


def changed_fields(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Mapping[str, tuple[Any, Any]]:
    """The outputs that differ, each with both values; None where a side does not have it."""
    old, new = before or {}, after or {}
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
