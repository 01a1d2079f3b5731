"""An optimisation as a program: DSPy's own optimiser, whose rollouts are child executions.

There is no checkpoint. The calls that the optimiser makes itself are in the journal of its execution; a rollout is an
execution with a key made of the job, the version, the inputs and the rollout. So a later attempt runs the optimiser
from its beginning, and gets at once what was paid for. What it draws by chance depends on its seed.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy

from dspex.client.client import Client
from dspex.client.improvement.dataset import Dataset
from dspex.program.models import model as named_model
from dspex.program.program import Program
from dspex.scoring.builtin_metrics import BUILT_IN_METRICS
from workers.actions.scoring import score_of
from workers.adapters.dspy.metric_calls import load_metric
from workers.adapters.dspy.modules.remote_module import BudgetSpent, Rollouts, remote_module
from workers.adapters.user_code import allowed_packages, load

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
#: The parameters that take a model of the job by its name: GEPA's, and MIPROv2's and COPRO's.
_MODELS: Mapping[str, str] = {"reflection_lm": "reflection", "prompt_model": "reflection"}


class OptimizerModule(dspy.Module):  # type: ignore[misc]
    """Runs an optimiser. ``program`` is the job's own program, which names its models and allows its code."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program

    def forward(self, task: Mapping[str, Any]) -> dspy.Prediction:
        """The version of the best state, its score, and what was tried. See :meth:`dspex.Client.optimize`."""
        random.seed(task["seed"])
        with Client() as client:
            rollouts = Rollouts(task["job"], task["budget"])
            student = remote_module(client, task["program"], task["version"], rollouts)
            trainset = _examples(client, task["trainset"])
            valset = _examples(client, task["valset"]) if task["valset"] else None
            tried = _Tried(self._metric(task["metric"]))
            calls = type(student)._dspex_calls
            try:
                best = self._optimizer(task, tried.metric).compile(
                    student, **_fitting(task, trainset, valset, self._optimizer_class(task))
                )
                version = calls.version_of(best)
                ended = "complete"
            except BudgetSpent:
                version, ended = tried.best(len(valset or trainset)) or task["version"], "budget spent"
            if version != task["version"]:
                best_program = client.program(task["program"], version)
                client.deploy(best_program, current=False, note=_lineage(task, tried.score(version), ended))
        return dspy.Prediction(
            version=version, score=tried.score(version), report={"ended": ended, "candidates": tried.listing()}
        )

    def _optimizer_class(self, job: Mapping[str, Any]) -> Any:
        name = job["optimizer"]
        if name in OPTIMIZERS:
            return getattr(dspy, OPTIMIZERS[name])
        return load(self._program, name, allowed_packages())

    def _optimizer(self, job: Mapping[str, Any], metric: Callable[..., Any]) -> Any:
        """The optimiser with its options, the metric, and the models that the job names for it."""
        kind = self._optimizer_class(job)
        takes = inspect.signature(kind).parameters
        options: dict[str, Any] = {"metric": metric} if "metric" in takes else {}
        for parameter, name in _MODELS.items():
            if parameter in takes and name in self._program.models:
                options[parameter] = named_model(name)
        if "seed" in takes:
            options["seed"] = job["seed"]
        return kind(**{**options, **job["options"]})

    def _metric(self, name: str) -> Callable[..., Any]:
        return BUILT_IN_METRICS[name] if name in BUILT_IN_METRICS else load_metric(self._program, name)


def _lineage(task: Mapping[str, Any], score: float | None, ended: str) -> str:
    """Where a version comes from, as its note."""
    trainset, shown = task["trainset"], "unknown" if score is None else format(score, ".4f")
    return (
        f"{task['optimizer']} from {task['version']} on {trainset['name']} {trainset['version']}, metric "
        f"{task['metric']}, seed {task['seed']}, score {shown}, {ended}, "
        f"job {task['job']}"
    )


def _fitting(
    job: Mapping[str, Any], trainset: Sequence[Any], valset: Sequence[Any] | None, kind: Any
) -> dict[str, Any]:
    """The arguments that ``compile`` of this optimiser takes."""
    compiled = getattr(kind, "compile", None)
    takes = inspect.signature(compiled).parameters if compiled is not None else {}
    given: dict[str, Any] = {"trainset": list(trainset)}
    if valset is not None and "valset" in takes:
        given["valset"] = list(valset)
    if "seed" in takes and "seed" not in inspect.signature(kind).parameters:
        given["seed"] = job["seed"]
    if "eval_kwargs" in takes:
        given["eval_kwargs"] = {"num_threads": job["options"].get("num_threads"), "display_progress": False}
    return given


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

    def listing(self) -> list[dict[str, Any]]:
        """The candidates in the order in which they were first tried."""
        return [
            {"version": version, "score": self.score(version), "examples": len(scores)}
            for version, scores in self._scores.items()
        ]


def _positional(metric: Callable[..., Any]) -> int:
    """How many of the five arguments a metric takes."""
    parameters = inspect.signature(metric).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 5
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(sum(parameter.kind in kinds for parameter in parameters), 5)
