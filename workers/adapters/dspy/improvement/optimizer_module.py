"""An optimisation as a program: DSPy's own optimiser, whose rollouts are child executions.

There is no checkpoint. The calls that the optimiser makes itself are in the journal of its execution; a rollout is an
execution with a key made of the job, the version, the inputs and the rollout. So a later attempt runs the optimiser
from its beginning, and gets at once what was paid for. What it draws by chance depends on its seed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any
from uuid import UUID

import dspy

from dspex.client.client import Client
from dspex.client.improvement.dataset import Dataset
from dspex.client.improvement.evaluation import BUDGET_SPENT
from dspex.errors import DspexError, ProgramError
from dspex.operations.report.dollars import dollars
from dspex.program.models import model as named_model
from dspex.program.program import Program
from dspex.scoring.builtin_metrics import BUILT_IN_METRICS
from workers.actions.scoring import score_of
from workers.adapters.dspy.engine_bridge import HostedRun, current_run
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
                return self._best(client, task, rollouts)
            except JobEnds as end:
                if end.error is not None:
                    raise end.error from None
                _cancel_if_cancelled(client, hosted.run.execution_id)
                raise

    def _best(self, client: Client, task: Mapping[str, Any], rollouts: Rollouts) -> dspy.Prediction:
        job = client.optimization(rollouts.execution_id)
        student = remote_module(client, task["program"], task["version"], rollouts)
        trainset = _examples(client, task["trainset"])
        valset = _examples(client, task["valset"]) if task["valset"] else None
        tried = _Tried(self._metric(task["metric"]))
        calls = type(student)._dspex_calls
        parents: Mapping[str, Sequence[str]] = {}
        try:
            arguments = _fitting(task, trainset, valset, self._optimizer_class(task))
            best = self._optimizer(task, tried.metric).compile(student, **arguments)
            version, ended = calls.version_of(best), "complete"
            parents = _parents(best, calls.version_of)
        except BudgetSpent:
            version, ended = tried.best(len(valset or trainset)) or task["version"], "budget spent"
        if version != task["version"]:
            note = _lineage(task, tried.score(version), ended, job.progress.cost_usd)
            client.deploy(client.program(task["program"], version), current=False, note=note)
        report = {
            "ended": ended,
            "candidates": tried.listing(parents),
            "unrepeated": job.unrepeated(rollouts.ids, before=rollouts.began),
        }
        return dspy.Prediction(version=version, score=tried.score(version), report=report)

    def _optimizer_class(self, job: Mapping[str, Any]) -> Any:
        name = job["optimizer"]
        if name in OPTIMIZERS:
            _require(name)
            return getattr(dspy, OPTIMIZERS[name])
        return load(self._program, name, allowed_packages())

    def _optimizer(self, job: Mapping[str, Any], metric: Callable[..., Any]) -> Any:
        """The optimiser with its options, the metric, and the models that the job names for it."""
        kind = self._optimizer_class(job)
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

    def _metric(self, name: str) -> Callable[..., Any]:
        return BUILT_IN_METRICS[name] if name in BUILT_IN_METRICS else load_metric(self._program, name)


def _require(name: str) -> None:
    """Raises ProgramError when this worker lacks what an optimiser needs: another one may have it."""
    for needed in _NEEDS.get(name, ()):
        if find_spec(needed) is None:
            raise ProgramError(
                f"optimizer {name!r} needs {needed}: pip install 'dspex[optimize]' where the workers run",
                code="code_not_found", retryable=True,
            )  # fmt: skip


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
    return {} if called is None else inspect.signature(called).parameters


def _examples(client: Client, part: Mapping[str, Any]) -> list[Any]:
    """The rows of a dataset, or of a part of one, as examples."""
    whole = client.dataset(part["name"], version=part["version"])
    indexes = part.get("indexes")
    rows = whole if indexes is None else Dataset(whole._session, whole.stored, indexes)
    return rows.examples()


class _Tried:
    """The scores of the candidates, by version and example, as the optimiser asks for them."""

    def __init__(self, metric: Callable[..., Any]) -> None:
        self._metric = metric
        self._needed = _positional(metric)
        self._scores: dict[str, dict[str, float]] = {}

    def metric(
        self, example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        """The metric, as every optimiser of DSPy calls it; its scores are noted."""
        arguments = (example, prediction, trace, pred_name, pred_trace)[: self._needed]
        returned = self._metric(*arguments)
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        score, _ = score_of(returned)
        version = getattr(prediction, "_dspex_version", None)
        if version is not None:
            self._scores.setdefault(version, {})[repr(sorted(example.inputs().items()))] = score
        return returned

    def score(self, version: str) -> float | None:
        """The mean of a candidate's last scores; None if it has none."""
        scores = self._scores.get(version)
        return sum(scores.values()) / len(scores) if scores else None

    def best(self, examples: int) -> str | None:
        """The candidate with the highest mean, of those that were tried on all examples, or else on the most."""
        most = min(max(map(len, self._scores.values()), default=0), examples)
        full = [version for version, scores in self._scores.items() if len(scores) >= most]
        return max(full, key=lambda version: self.score(version) or 0.0, default=None)

    def listing(self, parents: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """The candidates in the order in which they were first tried."""
        return [
            {
                "version": version, "score": self.score(version), "examples": len(scores),
                "parents": list(parents.get(version, ())),
            }
            for version, scores in self._scores.items()
        ]  # fmt: skip


def _positional(metric: Callable[..., Any]) -> int:
    """How many of the five arguments a metric takes."""
    parameters = inspect.signature(metric).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 5
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(sum(parameter.kind in kinds for parameter in parameters), 5)
