"""Submitting an evaluation: every row is checked, and all of its executions are stored in one transaction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from dspex.client.improvement.dataset import Dataset
from dspex.client.improvement.dataset_intake import open_dataset
from dspex.client.improvement.evaluation import Evaluation, budget_name
from dspex.client.session import Session
from dspex.client.submitter import Submitter
from dspex.errors import ExecutionNotFound, FieldError, ValidationError
from dspex.program.improvement.purpose import METRIC_SECONDS, Purpose
from dspex.program.modules import is_reference
from dspex.program.program import Program
from dspex.scoring.builtin_metrics import BUILT_IN_METRICS
from dspex.scoring.judges import judge, judge_of
from dspex.store.improvement import dataset_rows, evaluations
from dspex.store.lifecycle import budgets, executions
from dspex.store.lifecycle.batch_ids import new_batch_id
from dspex.submit.batch_rows import BatchRows
from dspex.submit.bulk import Intake

__all__ = ["column_faults", "find_evaluation", "find_evaluations", "limit_faults", "metric_name", "submit_evaluation"]

#: Rows that are checked and stored at a time.
GROUP_ROWS = 1000
#: The most faults that an error names.
MOST_FAULTS = 20
#: The most executions of one row.
REPEATS_MOST = 100


def submit_evaluation(
    session: Session,
    submitter: Submitter,
    program: str | Program,
    dataset: Dataset | str,
    *,
    metric: str | Callable[..., Any],
    version: str | None = None,
    repeats: int = 1,
    budget_usd: float | None = None,
    metric_seconds: float = METRIC_SECONDS,
    priority: int = 7,
    metadata: Mapping[str, Any] | None = None,
) -> Evaluation:
    """See :meth:`dspex.Client.evaluate`."""
    scored_on = open_dataset(session, dataset, None) if isinstance(dataset, str) else dataset
    name = _with_judge_version(session, metric_name(metric))
    faults = list(_faults(name, repeats, budget_usd, metric_seconds))
    if faults:
        raise ValidationError.of("evaluation", faults)
    purpose = Purpose(metric=name, metric_seconds=float(metric_seconds), dataset=scored_on.stored.id)
    chosen = submitter.chosen(program, version)
    batch = BatchRows(new_batch_id(), chosen.name)
    if faults := list(column_faults(scored_on, chosen, name)):
        raise ValidationError.of(f"evaluation of {chosen.name!r}", faults)
    if budget_usd is not None:
        purpose = replace(purpose, budget=budget_name(batch.id))
    intake = submitter.intake(batch, chosen, priority=priority, metadata=metadata, purpose=purpose.content)
    session.connections.rate.take()
    with session.database.transaction(saved="the evaluation was not begun") as connection:
        if purpose.budget is not None and budget_usd is not None:
            budgets.open_budget(connection, purpose.budget, float(budget_usd))
        for repeat in range(repeats):
            _store(connection, intake, batch, scored_on, replace(purpose, repeat=repeat))
    return Evaluation(session, batch, version=chosen.version, purpose=purpose, dataset=scored_on, repeats=repeats)


def _store(connection: Connection, intake: Intake, batch: BatchRows, dataset: Dataset, purpose: Purpose) -> None:
    """Store the executions of all rows, once. Raises ValidationError with the numbers of the rows that do not fit."""
    faults: list[FieldError] = []
    rows = iter(dataset)
    while group := list(islice(rows, GROUP_ROWS)):
        prepared = intake.prepare([row.inputs for row in group])
        begin = batch.size
        for rejected in prepared.rejected:
            row = group[rejected.index - begin]
            faults += [replace(fault, path=f"rows[{row.index}].{fault.path}") for fault in rejected.error.errors]
        if len(faults) >= MOST_FAULTS:
            break
        if not faults:
            submissions = [
                made._replace(purpose=json.dumps(replace(purpose, row=row.index).content))
                for made, row in zip(prepared.submissions, group, strict=True)
            ]
            executions.copy(connection, submissions)
        batch.extend(prepared.count)
    if faults:
        raise ValidationError.of(f"dataset {dataset.name!r}", faults[:MOST_FAULTS])


def find_evaluation(session: Session, id: UUID) -> Evaluation:
    """An evaluation that was begun before, by any process. Raises ExecutionNotFound."""
    found = session.database.run(partial(evaluations.find, id=id))
    purpose = Purpose.read(None if found is None else found.purpose)
    if found is None or purpose.metric is None or purpose.dataset is None:
        raise ExecutionNotFound(f"no evaluation {str(id)!r}", execution_id=str(id))
    stored = session.database.run(partial(dataset_rows.find_by_id, id=purpose.dataset))
    if stored is None:
        raise ExecutionNotFound(f"the dataset of evaluation {str(id)!r} is not stored", execution_id=str(id))
    places = session.database.run(partial(evaluations.places, batch_id=id))
    repeats = found.size // len(places)
    dataset = Dataset(session, stored, None if places == list(range(stored.size)) else places)
    batch = session.batch_rows(id)
    return Evaluation(session, batch, version=found.version, purpose=purpose, dataset=dataset, repeats=repeats)


def find_evaluations(session: Session, *, program: str | None, limit: int) -> list[Evaluation]:
    """Evaluations, the newest first."""
    found = session.database.run(partial(evaluations.listing, program=program, most=limit))
    return [find_evaluation(session, each.id) for each in found]


def _with_judge_version(session: Session, metric: str) -> str:
    """The metric; of a judge, with the version that is meant now. Raises ProgramNotFound, and ValidationError for one
    that gives no score."""
    named = judge_of(metric)
    if named is None:
        return metric
    name, version = named
    catalogue = session.catalogue
    program = catalogue.current(name, fresh=True) if version is None else catalogue.named(name, version)
    if "score" not in {field.name for field in program.signature.output_fields}:
        fault = FieldError("metric", "a judge with an output named score", repr(name)[:80])
        raise ValidationError.of("evaluation", [fault])
    return judge(name, program.version)


def metric_name(metric: str | Callable[..., Any]) -> str:
    """The name of a metric; of a function, the name by which a worker finds it."""
    if isinstance(metric, str):
        return metric
    name = getattr(metric, "__qualname__", "")
    if BUILT_IN_METRICS.get(name) is metric:
        return str(name)
    return f"{getattr(metric, '__module__', '')}:{name}"


def _faults(metric: str, repeats: object, budget_usd: object, metric_seconds: object) -> Iterator[FieldError]:
    if metric not in BUILT_IN_METRICS and not is_reference(metric) and judge_of(metric) is None:
        expected = f"one of {', '.join(BUILT_IN_METRICS)}, or a function of a module: 'package.module:function'"
        yield FieldError("metric", expected, repr(metric)[:80])
    if not isinstance(repeats, int) or isinstance(repeats, bool) or not 1 <= repeats <= REPEATS_MOST:
        yield FieldError("repeats", f"an integer from 1 to {REPEATS_MOST}", repr(repeats))
    yield from limit_faults(budget_usd=budget_usd, metric_timeout=metric_seconds)


def limit_faults(**limits: object) -> Iterator[FieldError]:
    """Limits that are neither None nor more than 0."""
    for name, value in limits.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (is_number and value > 0):  # type: ignore[operator]
            yield FieldError(name, "a number, more than 0", repr(value))


def column_faults(dataset: Dataset, program: Program, metric: str) -> Iterator[FieldError]:
    """No rows, columns that the program has no input for, and labels that a metric of DSPex's own does not find."""
    if not len(dataset):
        yield FieldError("dataset.rows", "at least one", f"an empty part of {dataset.name}")
    inputs = {field.name for field in program.signature.input_fields}
    outputs = [field.name for field in program.signature.output_fields]
    expected = f"inputs of the program: {', '.join(inputs)}"
    yield from (FieldError(f"dataset.inputs.{name}", expected) for name in dataset.inputs if name not in inputs)
    if metric in BUILT_IN_METRICS and not set(outputs) & set(dataset.labels):
        got = ", ".join(dataset.labels) or "none"
        yield FieldError("dataset.labels", f"a label for an output of the program: {', '.join(outputs)}", got[:200])
