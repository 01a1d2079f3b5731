"""Optimisations: jobs that look for a better state of a program, as one execution whose rollouts are executions."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from dspex.client.execution import Execution
from dspex.client.improvement.dataset import Dataset
from dspex.client.improvement.dataset_intake import open_dataset
from dspex.client.improvement.evaluation_submit import MOST_FAULTS, column_faults, limit_faults, metric_name
from dspex.client.result import recorded_result
from dspex.client.session import Session
from dspex.client.submitter import Submitter
from dspex.errors import ExecutionNotFound, FieldError, ValidationError
from dspex.program.improvement.purpose import METRIC_SECONDS
from dspex.program.models import Model
from dspex.program.modules import is_reference
from dspex.program.program import Program, Retry
from dspex.scoring.builtin_metrics import BUILT_IN_METRICS
from dspex.signatures import signature
from dspex.store.improvement import optimizations
from dspex.store.improvement.optimizations import CandidateUse
from dspex.store.lifecycle import budgets
from dspex.store.lifecycle.status import Status

__all__ = [
    "OPTIMIZERS",
    "UNSEALED",
    "Optimization",
    "OptimizationProgress",
    "OptimizationResult",
    "TriedVersion",
    "find_optimization",
    "submit_optimization",
]

#: DSPy's optimisers by their short names (workers/adapters/dspy/improvement/optimizer_module.py).
OPTIMIZERS = ("bootstrap", "bootstrap_random_search", "copro", "gepa", "labeled", "mipro", "simba")
#: The program of the jobs of a program, whose name ends so; its models are those that the jobs name.
SUFFIX = ".optimizer"
#: A job may take a day; what it has paid for is replayed when its worker dies.
JOB_SECONDS, JOB_ATTEMPTS = 86_400.0, 20
#: Among the results of actions of a job's execution, the candidates so far.
CANDIDATES = "candidates"
#: What a program must be for its states to be changed.
UNSEALED = "a program without secret fields: instructions and demonstrations, which may quote them, are not encrypted"
#: How far the clocks of two hosts may be apart.
CLOCKS_APART_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class TriedVersion:
    """A version that was tried: the mean of its scores as far as they are known, and what its executions took.

    ``parents`` are the versions that it was made from, where the optimiser says so. ``instructions`` and ``demos`` are
    the ones of each predictor, by its name. ``cost_usd`` is the known part of the cost; ``unpriced`` counts the
    executions whose cost is not known, or not all of it.
    """

    version: str
    score: float | None
    executions: int
    failed: int
    cost_usd: float | None
    parents: Sequence[str] = ()
    instructions: Mapping[str, str] = field(default_factory=dict)
    demos: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class OptimizationProgress:
    """A job so far: the versions that it tried, its rollouts, and what they and its own calls cost, as far as that is
    known; ``unpriced`` counts the executions, the job among them, whose cost is not known, or not all of it."""

    status: Status
    candidates: int
    executions: int
    finished: int
    failed: int
    cost_usd: float | None
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class OptimizationResult:
    """The best version, which is deployed and not current, and its score. ``ended`` is ``"complete"`` or
    ``"budget spent"``. ``unrepeated`` counts the rollouts of earlier attempts that the last one did not ask for: more
    than a few show an optimiser that does not do the same again."""

    version: str
    score: float | None
    ended: str
    unrepeated: int = 0


class Optimization:
    """The job of one ``client.optimize``: an execution, whose rollouts are executions of the program."""

    def __init__(self, session: Session, execution: Execution, *, program: str, job: str, budget: str | None) -> None:
        self._session = session
        self._execution = execution
        self._program = program
        self._job = job
        self._budget = budget

    def __repr__(self) -> str:
        return f"<Optimization {self.id} of {self._program}: {self._execution.status}>"

    @property
    def id(self) -> UUID:
        """The id of the job's execution."""
        return self._execution.id

    @property
    def program(self) -> str:
        """The name of the program that is optimised."""
        return self._program

    @property
    def execution(self) -> Execution:
        """The job as an execution: its status, its error, the calls that the optimiser made itself."""
        return self._execution

    @property
    def spent_usd(self) -> float | None:
        """What was spent of its budget; None without one."""
        if self._budget is None:
            return None
        return self._session.database.run(partial(budgets.spent, name=self._budget))

    @property
    def progress(self) -> OptimizationProgress:
        """How far the job is, as of now."""
        job, uses = self._execution.refresh(), self._uses()
        costs = [cost for cost in (*(use.cost_usd for use in uses), job.metrics.cost_usd) if cost is not None]
        return OptimizationProgress(
            status=job.status,
            candidates=len(uses),
            executions=sum(use.executions for use in uses),
            finished=sum(use.finished for use in uses),
            failed=sum(use.failed for use in uses),
            cost_usd=sum(costs) if costs else None,
            unpriced=sum(use.unpriced for use in uses) + bool(job.metrics.unpriced_lm_calls),
        )

    def candidates(self, *, states: bool = True) -> Sequence[TriedVersion]:
        """The versions that were tried, in the order of their first execution. Scores are a few seconds old while the
        job runs; parents are known at the end. ``states``: with the instructions and demos of each, which are read one
        by one."""
        job = self._execution.refresh()
        if job.status is Status.COMPLETED:
            listed = recorded_result(self._session, job._row)["report"]["candidates"]
        else:
            listed = job.action_results.get(CANDIDATES, {}).get("result", ())
        reported = {each["version"]: each for each in listed}
        tried = [_tried(use, reported.get(use.version, {})) for use in self._uses()]
        return [self._with_state(each) for each in tried] if states else tried

    def show_candidates(self, attempt: int, listed: Sequence[Mapping[str, Any]]) -> None:
        """Store the candidates so far of this attempt, which is under way: :meth:`candidates` shows their scores."""
        shown = json.dumps({CANDIDATES: {"ok": True, "result": list(listed)}})
        self._session.database.run(partial(optimizations.show_candidates, id=self.id, attempt=attempt, shown=shown))

    def _with_state(self, tried: TriedVersion) -> TriedVersion:
        predictors = _predictors(self._session.catalogue.version(self._program, tried.version))
        return replace(
            tried,
            instructions={name: each["signature"]["instructions"] for name, each in predictors.items()},
            demos={name: each["demos"] for name, each in predictors.items()},
        )

    def result(self, timeout: float | None = None) -> OptimizationResult:
        """Wait for the best version. Raises what :meth:`Execution.result` raises."""
        found = self._execution.result(timeout)
        report = found["report"]
        return OptimizationResult(found["version"], found["score"], report["ended"], report["unrepeated"])

    def cancel(self) -> int:
        """Cancel the job, and its executions that are queued or running. Returns how many executions were cancelled."""
        self._session.control.cancel(self.id)
        cancelled = 0
        while ids := self._session.database.run(partial(optimizations.unfinished, **self._place)):
            cancelled += self._session.control.cancel_all(ids)
        return cancelled

    @property
    def is_cancelled(self) -> bool:
        """Whether the job was cancelled, or will be."""
        row = self._session.row(self.id)
        return row["status"] == Status.CANCELLED or row["cancel_requested_at"] is not None

    def unrepeated(self, ids: Collection[UUID], before: UUID) -> int:
        """How many executions the job has besides these that were submitted earlier than ``before``."""
        return self._session.database.run(partial(optimizations.count_others, ids=ids, before=before, **self._place))

    @property
    def _place(self) -> dict[str, Any]:
        return {"program": self._program, "job": self._job, "since": _earliest(self.id)}

    def _uses(self) -> Sequence[CandidateUse]:
        return self._session.database.run(partial(optimizations.candidates, **self._place))


def _tried(use: CandidateUse, reported: Mapping[str, Any]) -> TriedVersion:
    return TriedVersion(
        use.version, reported.get("score"), use.executions, use.failed, use.cost_usd,
        parents=tuple(reported.get("parents", ())), unpriced=use.unpriced,
    )  # fmt: skip


def _earliest(id: UUID) -> UUID:
    """The least id that an execution of the job can have: the clock of its worker may be behind."""
    return UUID(int=max((id.int >> 80) - CLOCKS_APART_MS, 0) << 80)


def _predictors(program: Program) -> Mapping[str, Mapping[str, Any]]:
    """The state of each predictor; none in a program without a state."""
    state = program.state or {}
    return {name: each for name, each in state.items() if isinstance(each, Mapping) and "signature" in each}


def submit_optimization(
    session: Session,
    submitter: Submitter,
    program: str,
    *,
    trainset: Dataset | str,
    valset: Dataset | str | None,
    metric: str | Callable[..., Any],
    optimizer: str,
    options: Mapping[str, Any] | None,
    models: Mapping[str, str | Model] | None,
    budget_usd: float | None,
    seed: int,
    version: str | None,
    metric_seconds: float = METRIC_SECONDS,
) -> Optimization:
    """See :meth:`dspex.Client.optimize`."""
    name = metric_name(metric)
    chosen = submitter.chosen(program, version)
    given = [trainset] if valset is None else [trainset, valset]
    sets = [open_dataset(session, each, None) if isinstance(each, str) else each for each in given]
    faults = [*_faults(name, optimizer, options, budget_usd, seed, metric_seconds), *_set_faults(chosen, sets, name)]
    if faults:
        raise ValidationError.of(f"optimisation of {program!r}", faults[:MOST_FAULTS])
    job = str(uuid7())
    budget = None if budget_usd is None else f"optimization {job}"
    own = _job_program(chosen, models or {})
    session.deploy(own)
    task = {
        "program": chosen.name, "version": chosen.version, "trainset": _part(sets[0]),
        "valset": _part(sets[1]) if len(sets) > 1 else None, "metric": name,
        "metric_seconds": float(metric_seconds), "optimizer": optimizer,
        "options": dict(options or {}), "seed": seed, "job": job, "budget": budget,
    }  # fmt: skip
    if budget is not None and budget_usd is not None:
        session.database.run(partial(budgets.open_budget, name=budget, limit_usd=float(budget_usd)))
    row = submitter.submit(
        own.name, {"task": task}, version=own.version, idempotency_key=job, connection=None, stream=False,
        purpose={"optimizes": chosen.name, "job_of": job, **({} if budget is None else {"budget": budget})},
    )  # fmt: skip
    return Optimization(session, Execution(session, row), program=chosen.name, job=job, budget=budget)


def find_optimization(session: Session, id: UUID) -> Optimization:
    """A job that was begun before, by any process. Raises ExecutionNotFound."""
    row = session.row(id)
    purpose = row.get("purpose") or {}
    if "optimizes" not in purpose:
        raise ExecutionNotFound(f"no optimisation {str(id)!r}", execution_id=str(id))
    return Optimization(
        session, Execution(session, row), program=purpose["optimizes"], job=purpose["job_of"],
        budget=purpose.get("budget"),
    )  # fmt: skip


def _job_program(program: Program, models: Mapping[str, str | Model]) -> Program:
    """The program of a job: the optimiser asks the program's model, or the models that the job names."""
    return Program(
        f"{program.name}{SUFFIX}",
        signature(":map task -> :string version, :optional(:float) score, :map report"),
        module="optimizer",
        model=program.model,
        model_options=program.model_options,
        api_base=program.api_base,
        api_key_env=program.api_key_env,
        temperature=program.temperature,
        max_tokens=program.max_tokens,
        models=models,
        prompt="chat",
        timeout=JOB_SECONDS,
        retry=Retry(max_attempts=JOB_ATTEMPTS),
    )


def _part(dataset: Dataset) -> dict[str, Any]:
    whole = len(dataset) == dataset.stored.size
    return {"name": dataset.name, "version": dataset.version, **({} if whole else {"indexes": list(dataset.indexes)})}


def _faults(
    metric: str, optimizer: str, options: object, budget_usd: object, seed: object, metric_seconds: object
) -> Iterator[FieldError]:
    if metric not in BUILT_IN_METRICS and not is_reference(metric):
        expected = f"one of {', '.join(BUILT_IN_METRICS)}, or 'package.module:function'"
        yield FieldError("metric", expected, repr(metric)[:80])
    if optimizer not in OPTIMIZERS and not is_reference(optimizer):
        expected = f"one of {', '.join(OPTIMIZERS)}, or 'package.module:factory'"
        yield FieldError("optimizer", expected, repr(optimizer)[:80])
    if options is not None and not isinstance(options, Mapping):
        yield FieldError("options", "a mapping from arguments of the optimiser to values", type(options).__name__)
    yield from limit_faults(budget_usd=budget_usd, metric_timeout=metric_seconds)
    if not isinstance(seed, int) or isinstance(seed, bool):
        yield FieldError("seed", "an integer", repr(seed))


def _set_faults(program: Program, sets: Sequence[Dataset], metric: str) -> Iterator[FieldError]:
    """What no rollout could be executed with: columns and rows that do not fit the program."""
    if program.model is None:
        yield FieldError("program", "a program with a model", repr(program.name))
    if program.signature.secret_fields:
        yield FieldError("program", UNSEALED, repr(program.name))
    for dataset in sets:
        columns = list(column_faults(dataset, program, metric))
        yield from (replace(fault, path=f"{dataset.name}.{fault.path.partition('.')[2]}") for fault in columns)
        if not columns:
            yield from _row_faults(program, dataset)


def _row_faults(program: Program, dataset: Dataset) -> Iterator[FieldError]:
    for row in dataset:
        try:
            program.signature.validate_inputs(row.inputs)
        except ValidationError as error:
            for fault in error.errors:
                yield replace(fault, path=f"{dataset.name}.rows[{row.index}].{fault.path}")
