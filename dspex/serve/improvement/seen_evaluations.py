"""Evaluations as a principal may see them: their figures, their rows, and two of them side by side.

Secret values are masked, as on every page; an evaluation has as many rows as its dataset, so only the rows of a page
are read in full.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from dspex.client.batch import Progress
from dspex.client.execution import AsyncExecution
from dspex.client.improvement.score_comparison import changed_fields, sentence_of, verdict_of
from dspex.client.improvement.score_plots import BARS
from dspex.client.session import Session
from dspex.client.shown.execution_data import shown_values
from dspex.errors import ExecutionNotFound, FieldError, ValidationError
from dspex.program.improvement.purpose import Purpose
from dspex.scoring.score_statistics import PairedDifference, paired_difference
from dspex.sealing.values import PLACEHOLDER
from dspex.serve.access.principal import Principal
from dspex.serve.gateway import Gateway
from dspex.serve.known_of_ended import KnownOfEnded
from dspex.store.improvement import dataset_rows, evaluations
from dspex.store.improvement.evaluations import BarCount, EvaluationSummary, RankedRow, RowScore, ScoreFigures
from dspex.store.lifecycle.batch_ids import execution_id
from dspex.store.lifecycle.status import Status
from dspex.store.partitions import moment

__all__ = [
    "ChangedRow",
    "EvaluatedRow",
    "PairedRow",
    "Progressed",
    "SeenEvaluation",
    "TwoEvaluations",
    "changed_rows",
    "lowest_rows",
    "progressed",
    "rows_in_both",
    "seen_evaluation",
    "seen_evaluations",
    "side_by_side",
]

#: What a list counts at a time, in executions: the figures of what is left are counted when it is asked for again.
COUNTED_AT_ONCE = 30_000


@dataclass(frozen=True, slots=True)
class SeenEvaluation:
    """An evaluation: its first execution's purpose says what all of them are for."""

    summary: EvaluationSummary
    purpose: Purpose

    @property
    def id(self) -> UUID:
        return self.summary.id

    @property
    def begun_at(self) -> datetime:
        return moment(self.summary.id)

    @property
    def metric(self) -> str:
        return str(self.purpose.metric)


@dataclass(frozen=True, slots=True)
class Progressed:
    """The figures of an evaluation, how many scores are in each part of their range, and how far it is."""

    figures: ScoreFigures
    bars: Sequence[BarCount]
    progress: Progress

    @property
    def is_over(self) -> bool:
        return self.progress.finished == self.progress.total


@dataclass(frozen=True, slots=True)
class EvaluatedRow:
    """An execution of an evaluation, beside the row of the dataset. ``place`` is its place in the order of the list."""

    row: int
    repeat: int
    execution: AsyncExecution
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any] | None
    labels: Mapping[str, Any]
    place: RankedRow | None = None

    @property
    def score(self) -> float | None:
        """0 for a failure, and None for what is not over, not run, or has no score from its metric."""
        failed = self.execution.status is Status.FAILED and self.execution.cause_code != evaluations.UNPAID
        return 0.0 if failed else self.execution.metrics.score

    @property
    def metric_error(self) -> Mapping[str, Any] | None:
        """Why the metric gave no score."""
        found: Mapping[str, Any] | None = self._scored.get("error")
        return found

    @property
    def feedback(self) -> str | None:
        """What the metric wrote beside its score."""
        found: str | None = self._scored.get("feedback")
        return found

    @property
    def _scored(self) -> Mapping[str, Any]:
        metric = self.execution.shown_action_results.get("metric")
        result = metric.get("result") if isinstance(metric, Mapping) else None
        return result if isinstance(result, Mapping) else {}


class PairedRow(NamedTuple):
    """The mean scores of a row of the dataset in two evaluations, and the indexes of its first execution in each.

    ``difference`` is the score after, minus the score before; none below a billionth, as in the statistics.
    """

    row: int
    before: float
    after: float
    difference: float
    firsts: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TwoEvaluations:
    """Two evaluations on the same dataset. ``rows`` have a score in both: those that got worse first, the worst first,
    then those that got better, then the others. ``left_out`` counts rows without a score in one of them."""

    before: SeenEvaluation
    after: SeenEvaluation
    rows: Sequence[PairedRow]
    left_out: int
    difference: PairedDifference | None

    @property
    def groups(self) -> Mapping[str, Sequence[PairedRow]]:
        """The rows that got ``worse``, those that got ``better``, and the ``same``."""
        worse, better = (0, 0) if self.difference is None else (self.difference.worse, self.difference.better)
        ends = worse, worse + better
        return {"worse": self.rows[: ends[0]], "better": self.rows[ends[0] : ends[1]], "same": self.rows[ends[1] :]}

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``noise`` or ``unknown``."""
        return verdict_of(self.difference)

    @property
    def sentence(self) -> str:
        """The result in words."""
        before = self.before.summary.version, [row.before for row in self.rows]
        after = self.after.summary.version, [row.after for row in self.rows]
        return sentence_of(self.difference, before, after)


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row of two evaluations in full: its first execution in each, and the outputs that differ, with both values."""

    scores: PairedRow
    before: EvaluatedRow
    after: EvaluatedRow
    fields: Mapping[str, tuple[Any, Any]]


async def seen_evaluation(gateway: Gateway, principal: Principal, id: str) -> SeenEvaluation:
    """The evaluation with this id. Raises ExecutionNotFound, also for one that this principal may not see."""
    try:
        found = await gateway.call(_find, gateway.session, UUID(id))
    except ValueError:
        found = None
    if found is None or not _may_see(principal, found.summary.program):
        raise ExecutionNotFound(f"no evaluation {id[:60]!r}; `dspex evaluate` begins one", execution_id=id[:60])
    return found


async def seen_evaluations(
    gateway: Gateway,
    principal: Principal,
    *,
    program: str | None = None,
    dataset: UUID | None = None,
    before: UUID | None = None,
    limit: int,
) -> tuple[Sequence[SeenEvaluation], UUID | None]:
    """A page of evaluations, the newest first, and the id to continue before; None after the last page."""
    if program is not None:
        principal.require_program(program)
    if principal.tenant is not None:  # evaluations belong to no tenant
        return [], None
    programs = None if principal.programs is None else sorted(principal.programs)
    read = partial(
        evaluations.listing, program=program, programs=programs, dataset=dataset, before=before, most=limit + 1
    )
    rows = await gateway.call(gateway.session.database.run, read)
    page = [SeenEvaluation(row, Purpose.read(row.purpose)) for row in rows[:limit]]
    return page, page[-1].id if len(rows) > limit else None


async def progressed(gateway: Gateway, found: Sequence[SeenEvaluation]) -> Mapping[UUID, Progressed]:
    """How far these evaluations are, as far as it can be counted at once; the first is counted in any case."""
    known: dict[UUID, Progressed] = {}
    left = COUNTED_AT_ONCE
    for each in found:
        remembered: Progressed | None = _KNOWN.get("progress", each.id)
        if remembered is not None:
            known[each.id] = remembered
        elif not known or each.summary.size <= left:
            left -= each.summary.size
            known[each.id] = counted = await gateway.call(_count, gateway.session, each.id)
            if counted.is_over:
                _KNOWN.keep(counted, "progress", each.id)
    return known


async def lowest_rows(
    gateway: Gateway, found: SeenEvaluation, *, after: tuple[float, int] | None, only: str | None, limit: int
) -> tuple[Sequence[EvaluatedRow], RankedRow | None]:
    """A page of an evaluation's executions, the lowest score first; and the place to continue after."""

    def read() -> tuple[Sequence[EvaluatedRow], RankedRow | None]:
        session = gateway.session
        ask = partial(evaluations.lowest, batch_id=found.id, after=after, only=only, most=limit + 1)
        places = session.database.run(ask)
        shown = _in_full(session, found, {each.id: each for each in places[:limit]})
        return shown, places[limit - 1] if len(places) > limit else None

    return await gateway.call(read)


async def side_by_side(gateway: Gateway, before: SeenEvaluation, after: SeenEvaluation) -> TwoEvaluations:
    """Two evaluations compared as `dspex compare` does. Raises ValidationError for two of different datasets."""
    if before.purpose.dataset != after.purpose.dataset:
        expected = f"an evaluation on dataset {after.summary.dataset} {after.summary.dataset_version}"
        got = f"{before.summary.dataset} {before.summary.dataset_version}"
        raise ValidationError.of("comparison", [FieldError("with", expected, got)])
    known: TwoEvaluations | None = _KNOWN.get("compared", before.id, after.id)
    if known is not None:
        return known
    counted = [(await progressed(gateway, [each]))[each.id] for each in (before, after)]
    old, new = [
        await gateway.call(gateway.session.database.run, partial(evaluations.scores_by_row, batch_id=each.id))
        for each in (before, after)
    ]
    compared = await gateway.in_thread(_compared, before, after, old, new)
    if all(each.is_over for each in counted):
        _KNOWN.keep(compared, "compared", before.id, after.id)
    return compared


async def changed_rows(gateway: Gateway, two: TwoEvaluations, pairs: Sequence[PairedRow]) -> Sequence[ChangedRow]:
    """These rows in full, in this order."""

    def read() -> Sequence[ChangedRow]:
        before, after = [
            [execution_id(each.id, pair.firsts[side]) for pair in pairs]
            for side, each in enumerate((two.before, two.after))
        ]
        old = _by_row(gateway.session, two.before, before)
        new = _by_row(gateway.session, two.after, after)
        return [
            ChangedRow(pair, old[pair.row], new[pair.row], changed_fields(old[pair.row].outputs, new[pair.row].outputs))
            for pair in pairs
            if pair.row in old and pair.row in new
        ]

    return await gateway.call(read)


async def rows_in_both(
    gateway: Gateway, before: SeenEvaluation, after: SeenEvaluation, row: int
) -> tuple[Sequence[EvaluatedRow], Sequence[EvaluatedRow]]:
    """The executions of one row of the dataset in two evaluations, by repeat. Raises ExecutionNotFound."""

    def read() -> tuple[Sequence[EvaluatedRow], Sequence[EvaluatedRow]]:
        session = gateway.session
        return _of_row(session, before, row), _of_row(session, after, row)

    sides = await gateway.call(read)
    if not all(sides):
        raise ExecutionNotFound(f"row {row} is not in both evaluations", execution_id=str(after.id))
    return sides


# ----------------------------------------------------------------------------------------------------------- reading


_KNOWN = KnownOfEnded()


def _find(session: Session, id: UUID) -> SeenEvaluation | None:
    row = session.database.run(partial(evaluations.find, id=id))
    purpose = Purpose.read(None if row is None else row.purpose)
    if row is None or purpose.metric is None or purpose.dataset is None:
        return None
    return SeenEvaluation(row, purpose)


def _may_see(principal: Principal, program: str) -> bool:
    return principal.sees({"program": program, "tenant": None})


def _count(session: Session, id: UUID) -> Progressed:
    figures, bars = session.database.run(partial(evaluations.distribution, batch_id=id, bars=BARS))
    return Progressed(figures, bars, Progress.of(session.progress(id)))


def _compared(
    before: SeenEvaluation, after: SeenEvaluation, old: Mapping[int, RowScore], new: Mapping[int, RowScore]
) -> TwoEvaluations:
    """The comparison of these scores by row."""
    pairs = [
        PairedRow(row, was.score, now.score, _difference(was.score, now.score), (was.first, now.first))
        for row, was in old.items()
        if was.score is not None and (now := new.get(row)) is not None and now.score is not None
    ]
    worse = sorted((pair for pair in pairs if pair.difference < 0), key=lambda pair: (pair.difference, pair.row))
    better = sorted((pair for pair in pairs if pair.difference > 0), key=lambda pair: (-pair.difference, pair.row))
    found = paired_difference(sorted(pair.difference for pair in pairs)) if pairs else None
    rows = [*worse, *better, *(pair for pair in pairs if pair.difference == 0)]
    return TwoEvaluations(before, after, rows, len({*old, *new}) - len(pairs), found)


def _difference(before: float, after: float) -> float:
    found = after - before
    return 0.0 if abs(found) < 1e-9 else found


def _by_row(session: Session, found: SeenEvaluation, ids: Sequence[UUID]) -> Mapping[int, EvaluatedRow]:
    return {each.row: each for each in _in_full(session, found, dict.fromkeys(ids))}


def _of_row(session: Session, found: SeenEvaluation, row: int) -> Sequence[EvaluatedRow]:
    ids = session.database.run(partial(evaluations.of_row, batch_id=found.id, row=row))
    return _in_full(session, found, dict.fromkeys(ids))


def _in_full(
    session: Session, found: SeenEvaluation, places: Mapping[UUID, RankedRow | None]
) -> Sequence[EvaluatedRow]:
    """The executions with these ids, in this order."""
    stored = {row["id"]: row for row in session.rows(list(places))}
    purposes = {id: Purpose.read(row["purpose"]) for id, row in stored.items()}
    labels = _labels(session, found, [purpose.row for purpose in purposes.values()])
    shown = []
    for id, place in places.items():
        if (row := stored.get(id)) is None:
            continue  # retention removed it meanwhile
        inputs, outputs = shown_values(session, row)
        purpose = purposes[id]
        execution = AsyncExecution(session, row)
        shown.append(
            EvaluatedRow(purpose.row, purpose.repeat, execution, inputs, outputs, labels.get(purpose.row, {}), place)
        )
    return shown


def _labels(session: Session, found: SeenEvaluation, rows: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
    """What is expected of these rows of the dataset, without sealed rows and without what the program calls secret."""
    id = found.purpose.dataset
    stored = None if id is None else session.database.run(partial(dataset_rows.find_by_id, id=id))
    if stored is None:
        return {}
    if stored.sealed:
        return {row: dict.fromkeys(stored.labels, PLACEHOLDER) for row in rows}
    signature = session.catalogue.version(found.summary.program, found.summary.version).signature
    secret = {field.name for field in (*signature.input_fields, *signature.output_fields) if field.secret}
    read = session.database.run(partial(dataset_rows.rows, id=stored.id, indexes=sorted(set(rows))))
    labels = {row: json.loads(content).get("labels", {}) for row, content in read}
    return {
        row: {name: PLACEHOLDER if name in secret else value for name, value in each.items()}
        for row, each in labels.items()
    }
