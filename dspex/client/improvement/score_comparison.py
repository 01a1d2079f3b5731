"""Two evaluations side by side: rows that got worse first, and whether the difference is more than noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspex.client.improvement.evaluation import Evaluation, EvaluationRow
from dspex.errors import FieldError, ValidationError
from dspex.scoring.score_statistics import CONFIDENCE, PairedDifference, paired_difference

__all__ = ["RowDifference", "ScoreComparison", "compared", "side_by_side"]


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
        found = self.difference
        if found is None:
            return "unknown"
        return "noise" if not found.is_more_than_noise else "better" if found.mean > 0 else "worse"

    @property
    def sentence(self) -> str:
        """The result in words."""
        found = self.difference
        if found is None:
            return "No row has a score in both evaluations."
        before, after = _mean([r.score_before for r in self.rows]), _mean([r.score_after for r in self.rows])
        change = f"{abs(found.mean):.3f} {'more' if found.mean >= 0 else 'less'}"
        meaning = {
            "better": "It is better, and that is more than noise.",
            "worse": "It is worse, and that is more than noise.",
            "noise": "The difference may be noise.",
        }[self.verdict]
        return (
            f"Version {self.after.version} scores {after:.3f}, {change} than the {before:.3f} of version "
            f"{self.before.version} ({CONFIDENCE:.0%} interval {found.low:+.3f} to {found.high:+.3f}; {found.better} "
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
    old, new = before[0].outputs or {}, after[0].outputs or {}
    names = [*old, *(name for name in new if name not in old)]
    fields = {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}
    return RowDifference(
        first.index, first.inputs, first.labels, before, after, _mean(scores[0]), _mean(scores[1]), fields
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
