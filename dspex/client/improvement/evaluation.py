"""Evaluations: a batch whose executions carry a metric, and the scores of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from dspex.client.execution import Execution
from dspex.client.improvement.dataset import Dataset, DatasetRow
from dspex.client.improvement.version_batch import VersionBatch
from dspex.client.result import recorded_result
from dspex.client.session import Session
from dspex.errors import DspexError
from dspex.program.improvement.purpose import Purpose
from dspex.store.improvement import evaluations
from dspex.store.improvement.evaluations import ScoreFigures
from dspex.store.lifecycle import budgets
from dspex.store.lifecycle.status import Status
from dspex.submit.batch_rows import BatchRows
from dspex.wait.driver import Row

if TYPE_CHECKING:
    from dspex.client.improvement.score_comparison import ScoreComparison

__all__ = ["BUDGET_SPENT", "Evaluation", "EvaluationRow", "budget_name"]

#: The code of executions that were not run because the budget was spent.
BUDGET_SPENT = evaluations.UNPAID
#: Rows of one query.
READ_ROWS = 500


def budget_name(id: UUID) -> str:
    """The name of an evaluation's budget; no program has a name with a space in it."""
    return f"evaluation {id}"


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One execution of an evaluation: the row of the dataset, and what became of it.

    ``score`` is 0 for an execution that failed, and None for one that is not over, was cancelled, was not paid for
    because the budget was spent, or whose metric gave none: then ``metric_error`` says why. ``error`` is the failure of
    the program. ``outputs`` is None without a result.
    """

    index: int
    repeat: int
    inputs: Mapping[str, Any]
    labels: Mapping[str, Any]
    execution_id: UUID
    status: Status
    outputs: Mapping[str, Any] | None = None
    score: float | None = None
    feedback: str | None = None
    error: DspexError | None = None
    metric_error: Mapping[str, Any] | None = None
    cost_usd: float | None = None
    tokens: int = 0
    execution_time_ms: float = 0.0


class Evaluation(VersionBatch):
    """The executions of one ``client.evaluate``. Its attributes are read from the database at each use."""

    def __init__(
        self, session: Session, rows: BatchRows, *, version: str, purpose: Purpose, dataset: Dataset, repeats: int
    ) -> None:
        super().__init__(session, rows, version=version)
        self._purpose = purpose
        self._dataset = dataset
        self._repeats = repeats

    @property
    def metric(self) -> str:
        """The metric, by name."""
        return str(self._purpose.metric)

    @property
    def dataset(self) -> Dataset:
        """The dataset, or the part of it, that it is evaluated on."""
        return self._dataset

    @property
    def repeats(self) -> int:
        """How many executions each row has."""
        return self._repeats

    @property
    def figures(self) -> ScoreFigures:
        """The mean score and its parts: how many executions were scored, failed, or have no score."""
        return self._session.database.run(partial(evaluations.figures, batch_id=self.id))

    @property
    def score(self) -> float | None:
        """The mean score so far; None before the first. A failed execution counts as 0, one without a score does not
        count."""
        return self.figures.score

    @property
    def spent_usd(self) -> float | None:
        """What was spent of its budget, as far as prices are known; None without one."""
        if self._purpose.budget is None:
            return None
        return self._session.database.run(partial(budgets.spent, name=self._purpose.budget))

    def rows(self) -> Iterator[EvaluationRow]:
        """Each execution with its row of the dataset, in the order of the dataset, repeats after one another."""
        for part in _parts(self._dataset, READ_ROWS):
            yield from self._rows_of(part)

    def compare(self, other: Evaluation) -> ScoreComparison:
        """This evaluation beside another one, ``other``, of any program and version on the same dataset: which rows it
        does worse and better, and whether the difference is more than noise. Raises ValidationError."""
        from dspex.client.improvement.score_comparison import compared

        return compared(other, self)

    def _rows_of(self, part: Sequence[tuple[int, DatasetRow]]) -> Iterator[EvaluationRow]:
        size = len(self._dataset)
        ids = self._batch.ids
        wanted = [ids[repeat * size + place] for place, _ in part for repeat in range(self._repeats)]
        found = {row["id"]: row for row in self._session.rows(wanted)}
        for place, row in part:
            for repeat in range(self._repeats):
                id = ids[repeat * size + place]
                if id in found:
                    yield self._row(row, repeat, found[id])

    def _row(self, row: DatasetRow, repeat: int, stored: Row) -> EvaluationRow:
        execution = Execution(self._session, stored)
        status, metrics = execution.status, execution.metrics
        outputs = dict(recorded_result(self._session, stored)) if status is Status.COMPLETED else None
        scored = execution.action_results.get("metric", {}).get("result", {})
        unpaid = execution.cause_code == BUDGET_SPENT
        return EvaluationRow(
            index=row.index,
            repeat=repeat,
            inputs=row.inputs,
            labels=row.labels,
            execution_id=execution.id,
            status=status,
            outputs=outputs,
            score=0.0 if status is Status.FAILED and not unpaid else metrics.score,
            feedback=scored.get("feedback"),
            error=execution.error,
            metric_error=scored.get("error"),
            cost_usd=metrics.cost_usd,
            tokens=metrics.prompt_tokens + metrics.completion_tokens,
            execution_time_ms=metrics.execution_time_ms,
        )


def _parts(dataset: Dataset, most: int) -> Iterator[Sequence[tuple[int, DatasetRow]]]:
    """The rows of a dataset with their places in it, in groups."""
    placed = enumerate(dataset)
    while part := list(islice(placed, most)):
        yield part
