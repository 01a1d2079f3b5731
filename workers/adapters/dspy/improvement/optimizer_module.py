"""An optimisation as a program: DSPy's own optimiser, whose rollouts are child executions.

There is no checkpoint. The calls that the optimiser makes itself are in the journal of its execution; a rollout is an
execution with a key made of the job, the version, the inputs and the rollout. So a later attempt runs the optimiser
from its beginning, and gets at once what was paid for. What it draws by chance depends on its seed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any
from uuid import UUID

import dspy

from dspex.client.client import Client
from dspex.client.improvement.dataset import Dataset
from dspex.client.improvement.evaluation import BUDGET_SPENT
from dspex.errors import DspexError, ProgramError
from dspex.operations.report.dollars import dollars
from dspex.program.calls.parameters import signature_of
from dspex.program.models import model as named_model
from dspex.program.program import Program
from dspex.scoring.builtin_metrics import BUILT_IN_METRICS
from workers.adapters.dspy.engine_bridge import HostedRun, current_run
from workers.adapters.dspy.improvement.candidate_scores import CandidateScores
from workers.adapters.dspy.improvement.metric_calls import load_metric
from workers.adapters.dspy.improvement.remote_states import HOPELESS, BudgetSpent, JobEnds, Rollouts, remote_module
from workers.adapters.user_code import allowed_packages, load
from workers.attempt.sync_threads import run_apart

__all__ = ["OPTIMIZERS", "OptimizerModule"]

#: DSPy's optimisers by their short names.
OPTIMIZERS: Mapping[str, str] = {
    "bootstrap": "BootstrapFewShot",
    "bootstrap_random_search": "BootstrapFewShotWithRandomSearch",
    "copro": "COPRO",
    "gepa": "GEPA",
    "labeled": "LabeledFewShot",
    "mipro": "MIPROv2",
    "simba": "SIMBA",
}
#: What some of them import, which DSPy does not install.
_NEEDS: Mapping[str, Sequence[str]] = {"mipro": ("optuna", "numpy"), "simba": ("numpy",)}
#: The parameters that take a model of the job by its name: GEPA's, and MIPROv2's and COPRO's.
_MODELS: Mapping[str, str] = {"reflection_lm": "reflection", "prompt_model": "reflection"}
#: The parameters of optimisers that are no options.
_GIVEN = frozenset({"metric", "student", "trainset", "valset", "seed", "self", *_MODELS})
#: How many attempts look for a metric or an optimiser that a worker does not have.
MISSING_ATTEMPTS = 3


class OptimizerModule(dspy.Module):  # type: ignore[misc]
    """Runs an optimiser. ``program`` is the job's own program, which names its models and allows its code."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program

    async def aforward(self, task: Mapping[str, Any]) -> dspy.Prediction:
        """The version of the best state, its score, and what was tried. See :meth:`dspex.Client.optimize`.

        The job holds no slot and no thread of the worker's: its rollouts, and theirs, may need them.
        """
        hosted = current_run.get()
        assert hosted is not None
        hosted.ends = _end
        hosted.run.leave_slot()
        return await run_apart(self._optimized, task, hosted)

    def _optimized(self, task: Mapping[str, Any], hosted: HostedRun) -> dspy.Prediction:
        with Client() as client:
            rollouts = Rollouts(
                task["job"], hosted.run.execution_id, task["budget"], is_over=lambda: hosted.loop.is_over
            )
            try:
                return self._best(client, task, rollouts, hosted.run.attempt)
            except JobEnds as end:
                if end.error is not None:
                    raise end.error from None
                _cancel_if_cancelled(client, hosted.run.execution_id)
                raise

    def _best(self, client: Client, task: Mapping[str, Any], rollouts: Rollouts, attempt: int) -> dspy.Prediction:
        job = client.optimization(rollouts.execution_id)
        scores = CandidateScores(self._metric(task["metric"], attempt), task["metric_seconds"])
        optimizer = self._optimizer_class(task, attempt)
        _check_options(task, optimizer)
        student = remote_module(client, task["program"], task["version"], rollouts)
        with scores.published(partial(job.show_candidates, attempt)):
            version, ended, parents = self._searched(client, task, optimizer, student, scores)
        scores.require()
        if version != task["version"]:
            note = _lineage(task, scores.score(version), ended, job.progress.cost_usd)
            client.deploy(client.program(task["program"], version), current=False, note=note)
        report = {
            "ended": ended,
            "candidates": scores.listing(parents),
            "unrepeated": job.unrepeated(rollouts.ids, before=rollouts.began),
        }
        return dspy.Prediction(version=version, score=scores.score(version), report=report)

    def _searched(
        self, client: Client, task: Mapping[str, Any], optimizer: Any, student: Any, scores: CandidateScores
    ) -> tuple[str, str, Mapping[str, Sequence[str]]]:
        """The best version, how the search ended, and the versions that each candidate was made from."""
        trainset = _examples(client, task["trainset"])
        valset = _examples(client, task["valset"]) if task["valset"] else None
        version_of = type(student)._dspex_calls.version_of
        try:
            arguments = _fitting(task, trainset, valset, optimizer)
            best = self._optimizer(task, optimizer, scores.metric).compile(student, **arguments)
            return version_of(best), "complete", _parents(best, version_of)
        except BudgetSpent:
            return scores.best(len(valset or trainset)) or task["version"], "budget spent", {}
        except Exception:
            scores.require()  # a metric that only fails is the cause, whatever the optimiser made of it
            raise

    def _optimizer_class(self, job: Mapping[str, Any], attempt: int) -> Any:
        name = job["optimizer"]
        if name in OPTIMIZERS:
            _require(name, attempt)
            return getattr(dspy, OPTIMIZERS[name])
        try:
            return load(self._program, name, allowed_packages())
        except ProgramError as error:
            raise _missing(f"optimizer {name!r}: {error}", attempt, code="optimizer_not_found") from error

    def _optimizer(self, job: Mapping[str, Any], kind: Any, metric: Callable[..., Any]) -> Any:
        """The optimiser with its options, the metric, and the models that the job names for it."""
        takes = _parameters(kind)
        options: dict[str, Any] = {"metric": metric} if "metric" in takes else {}
        for parameter, name in _MODELS.items():
            if parameter in takes and name in self._program.models:
                options[parameter] = named_model(name)
        if kind is dspy.GEPA:
            options = {"reflection_lm": dspy.settings.lm, "track_stats": True, **options}
        if "seed" in takes:
            options["seed"] = job["seed"]
        return kind(**{**options, **_divided(job["options"], kind)[0]})

    def _metric(self, name: str, attempt: int) -> Callable[..., Any]:
        if name in BUILT_IN_METRICS:
            return BUILT_IN_METRICS[name]
        try:
            return load_metric(self._program, name)
        except ProgramError as error:
            raise _missing(str(error), attempt, code=error.code) from error


def _require(name: str, attempt: int) -> None:
    """Raises ProgramError when this worker lacks what an optimiser needs."""
    for needed in _NEEDS.get(name, ()):
        if find_spec(needed) is None:
            why = f"optimizer {name!r} needs {needed}: pip install 'dspex[optimize]' where the workers run"
            raise _missing(why, attempt, code="optimizer_not_found")


def _missing(why: str, attempt: int, *, code: str) -> ProgramError:
    """This worker lacks code that the job names, and another one may have it: so the first attempts are repeated. The
    job's program itself runs here, as do the other jobs with it."""
    return ProgramError(why, code=code, retryable=attempt < MISSING_ATTEMPTS)


def _end(error: DspexError) -> BaseException | None:
    """What ends an optimiser whose own model call failed: many go on without the answer. None where they may."""
    if error.code == BUDGET_SPENT:
        return BudgetSpent()
    return JobEnds(error) if error.retryable or error.code in HOPELESS else None


def _cancel_if_cancelled(client: Client, id: UUID) -> None:
    """Cancel what a cancelled job has submitted; what another attempt of it will need goes on."""
    job = client.optimization(id)
    if job.is_cancelled:
        job.cancel()


def _parents(best: Any, version_of: Callable[[Any], str]) -> Mapping[str, Sequence[str]]:
    """The versions that each candidate was made from, where the optimiser says so: GEPA does."""
    details = getattr(best, "detailed_results", None)
    if details is None:
        return {}
    versions = [version_of(candidate) for candidate in details.candidates]
    return {
        version: [versions[parent] for parent in parents if parent is not None]
        for version, parents in zip(versions, details.parents, strict=True)
    }


def _lineage(task: Mapping[str, Any], score: float | None, ended: str, cost_usd: float | None) -> str:
    """Where a version comes from, as its note."""
    trainset, shown = task["trainset"], "unknown" if score is None else format(score, ".4f")
    return (
        f"{task['optimizer']} from {task['version']} on {trainset['name']} {trainset['version']}, metric "
        f"{task['metric']}, seed {task['seed']}, score {shown}, {ended}, cost {dollars(cost_usd)}, job {task['job']}"
    )


def _divided(options: Mapping[str, Any], kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of an optimiser, and those that its ``compile`` takes and the optimiser itself does not name."""
    own, compiled = _parameters(kind), _parameters(getattr(kind, "compile", None))
    later = {name: value for name, value in options.items() if name in compiled and name not in own}
    return {name: value for name, value in options.items() if name not in later}, later


def _check_options(task: Mapping[str, Any], kind: Any) -> None:
    """Raises ProgramError for options that neither the optimiser nor its ``compile`` takes."""
    own, compiled = _parameters(kind), _parameters(getattr(kind, "compile", None))
    if any(each.kind is each.VAR_KEYWORD for each in own.values()):
        return
    known = [name for name in {**own, **compiled} if name not in _GIVEN]
    if unknown := [name for name in task["options"] if name not in {*own, *compiled}]:
        raise ProgramError(
            f"optimizer {task['optimizer']!r} has no option {unknown[0]!r}: its options are {', '.join(sorted(known))}"
        )


def _fitting(
    job: Mapping[str, Any], trainset: Sequence[Any], valset: Sequence[Any] | None, kind: Any
) -> dict[str, Any]:
    """The arguments that ``compile`` of this optimiser takes."""
    takes = _parameters(getattr(kind, "compile", None))
    given: dict[str, Any] = {"trainset": list(trainset)}
    if valset is not None and "valset" in takes:
        given["valset"] = list(valset)
    if "seed" in takes and "seed" not in _parameters(kind):
        given["seed"] = job["seed"]
    if "eval_kwargs" in takes:
        given["eval_kwargs"] = {"num_threads": job["options"].get("num_threads"), "display_progress": False}
    return given | _divided(job["options"], kind)[1]


def _parameters(called: Any) -> Mapping[str, inspect.Parameter]:
    return {} if called is None else signature_of(called).parameters


def _examples(client: Client, part: Mapping[str, Any]) -> list[Any]:
    """The rows of a dataset, or of a part of one, as examples."""
    whole = client.dataset(part["name"], version=part["version"])
    indexes = part.get("indexes")
    rows = whole if indexes is None else Dataset(whole._session, whole.stored, indexes)
    return rows.examples()
