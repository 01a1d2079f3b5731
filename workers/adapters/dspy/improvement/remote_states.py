"""``dspex.remote``: a deployed program as a ``dspy.Module``, each call of which is an execution on the workers.

The module is the one that a worker would run, with its predictors, so that optimisers read and change it as any other;
only its ``forward`` is another: it executes the *current* state of the predictors, and puts the calls that the worker
made into ``dspy.settings.trace``, as if they had been made here. A state that is not the program's is deployed as a
version of its own, which is not the current one: equal states are one version.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import dspy
from dspy.adapters.utils import parse_value
from uuid_utils.compat import uuid7

from dspex.client.execution import Execution
from dspex.client.improvement.evaluation import BUDGET_SPENT
from dspex.client.improvement.optimization import UNSEALED
from dspex.errors import DspexError, ExecutionFailed, ExecutionTimedOut, FieldError, ValidationError
from dspex.program.modules import is_custom
from dspex.program.program import Program
from workers.adapters.dspy.dspy_signature import dspy_names
from workers.adapters.dspy.modules.hosted_modules import build_module
from workers.adapters.dspy.values.stored_values import stored

if TYPE_CHECKING:
    from dspex.client.client import Client

__all__ = ["HOPELESS", "BudgetSpent", "JobEnds", "Rollouts", "remote_module"]

#: How often a thread that waits for an execution looks whether the attempt that it works for is over.
LOOK_SECONDS = 2.0
#: The codes of failures that every rollout would have, whatever its candidate: the job fails with them, too.
HOPELESS = frozenset({"authentication", "billing", "code_not_found", "model_not_allowed", "price_unknown"})
#: The predictors of a module by their names.
Predictors = Mapping[str, Any]
#: What ``inspect.getsource`` finds a class by.
_OF_SOURCE = ("__module__", "__doc__", "__firstlineno__")


class BudgetSpent(BaseException):
    """The budget of an optimisation is spent. No Exception, so that an optimiser which catches those ends, too."""


class JobEnds(BaseException):
    """This attempt of an optimisation is over, or ends with ``error``. No Exception, as :class:`BudgetSpent`."""

    def __init__(self, error: DspexError | None = None) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The calls of an optimisation: equal ones are one execution, paid from ``budget`` if there is one.

    ``execution_id`` is the job's own execution. ``is_over`` says whether the attempt is. ``ids`` are the executions
    that it has asked for; the new ones among them are later than ``began``.
    """

    job: str
    execution_id: UUID
    budget: str | None = None
    is_over: Callable[[], bool] = lambda: False
    ids: set[UUID] = field(default_factory=set)
    began: UUID = field(default_factory=uuid7)

    def require(self) -> None:
        """Raises JobEnds when the attempt is over."""
        if self.is_over():
            raise JobEnds

    def outputs(self, execution: Execution) -> dict[str, Any]:
        """Wait for the outputs of an execution. Raises ExecutionFailed, ExecutionCancelled, BudgetSpent, JobEnds."""
        self.ids.add(execution.id)
        while True:
            try:
                return dict(execution.result(LOOK_SECONDS))
            except ExecutionTimedOut:
                self.require()
            except ExecutionFailed as error:
                if error.code == BUDGET_SPENT:
                    raise BudgetSpent from error
                if error.code in HOPELESS:
                    raise JobEnds(error.cause) from error
                raise

    def key(self, version: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """The idempotency key of a call: of the same version, inputs and rollout."""
        text = json.dumps([version, inputs, options], sort_keys=True, default=str)
        return f"{self.job}:{_hash(text).hex()}"


def remote_module(
    client: Client, name: str, version: str | None = None, rollouts: Rollouts | None = None
) -> dspy.Module:
    """The module of a deployed program. Raises ProgramNotFound, and as :func:`build_module` does."""
    program = client.program(name, version)
    module = build_module(program)
    calls = _RemoteCalls(client, program, _state_text(dict(module.named_predictors())), rollouts)
    kind = type(module)
    # Optimisers read the name and the source of the class: they find what the module has.
    like = {name: vars(kind)[name] for name in _OF_SOURCE if name in vars(kind)}
    names = {**like, "_dspex_calls": calls, "forward": _forward, "aforward": _aforward}
    meta: Any = type(kind)  # of DSPy's modules, whose classes have one of their own
    module.__class__ = meta(kind.__name__, (kind,), {**names, "__qualname__": kind.__qualname__})
    return module


def _forward(self: Any, **inputs: Any) -> dspy.Prediction:
    return self._dspex_calls.call(self, inputs)


async def _aforward(self: Any, **inputs: Any) -> dspy.Prediction:
    return await asyncio.to_thread(self._dspex_calls.call, self, inputs)


class _RemoteCalls:
    """Executes states of one program. Safe to share between threads; copies of the module share it."""

    def __init__(self, client: Client, program: Program, state: str, rollouts: Rollouts | None) -> None:
        self._client = client
        self._rollouts = rollouts
        self._program = program
        self._is_own = is_custom(program.module)
        self._names = {} if self._is_own else {ours: name for name, ours in dspy_names(program.signature).items()}
        #: The version of each state, by the hash of its text.
        self._versions = {_hash(state): program.version}
        self._deploying = threading.Lock()

    def __deepcopy__(self, memo: object) -> _RemoteCalls:
        return self

    def call(self, module: dspy.Module, inputs: Mapping[str, Any]) -> dspy.Prediction:
        """The prediction for these inputs. Raises what a submit raises, in a job JobEnds with it; ExecutionFailed,
        ExecutionCancelled, and as :meth:`Rollouts.outputs`; ValidationError for another state of a program with secret
        fields."""
        predictors = dict(module.named_predictors())
        with self._ending_jobs():
            version = self._version(predictors)
        given = {self._names.get(name, name): stored(value) for name, value in inputs.items()}
        options = _rollout_options(predictors)
        purpose: dict[str, Any] = {"trace": True}
        if options.get("temperature") is not None:
            purpose["temperature"] = float(options["temperature"])
        key = None
        if self._rollouts is not None:
            self._rollouts.require()
            key = self._rollouts.key(version, given, options)
            purpose |= {"job": self._rollouts.job, "budget": self._rollouts.budget}
        client = self._client
        with self._ending_jobs():
            row = client._submitter.submit(
                self._program.name, given, version=version, purpose=purpose, idempotency_key=key, connection=None,
                stream=False,
            )  # fmt: skip
        execution = Execution(client._session, row)
        outputs = dict(execution.result()) if self._rollouts is None else self._rollouts.outputs(execution)
        traced = execution.action_results.get("trace", {}).get("result", {})
        prediction = self._traced(module, predictors, traced, outputs)
        prediction._dspex_version = version
        return prediction

    @contextmanager
    def _ending_jobs(self) -> Iterator[None]:
        """Have an error of a deploy or a submit end the job: an optimiser would take it for a bad candidate. What is
        refused as invalid is one."""
        try:
            yield
        except DspexError as error:
            if self._rollouts is None or isinstance(error, ValidationError):
                raise
            raise JobEnds(error) from error

    def version_of(self, module: dspy.Module) -> str:
        """The version with the current state of the module, deployed if it is new."""
        return self._version(dict(module.named_predictors()))

    def _version(self, predictors: Predictors) -> str:
        text = _state_text(predictors)
        digest = _hash(text)
        if digest not in self._versions:
            with self._deploying:
                if digest not in self._versions:
                    self._refuse_secrets()
                    candidate = replace(self._program, state=self._with_models(json.loads(text)))
                    self._client._session.deploy(candidate, current=False, candidate=True)
                    self._versions[digest] = candidate.version
        return self._versions[digest]

    def _refuse_secrets(self) -> None:
        """Raises ValidationError, which ends a job: a state may quote values of secret fields, and is not sealed."""
        if self._program.signature.secret_fields:
            error = ValidationError.of(
                f"version of {self._program.name!r}", [FieldError("program", UNSEALED, repr(self._program.name))]
            )
            raise error if self._rollouts is None else JobEnds(error)

    def _with_models(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The state of the predictors, with the models that the program's own state names for them."""
        known = self._program.state or {}
        models = {name: each["lm"] for name, each in known.items() if isinstance(each, Mapping) and each.get("lm")}
        return {name: {**each, "lm": models[name]} if name in models else each for name, each in state.items()}

    def _traced(
        self, module: dspy.Module, predictors: Predictors, traced: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> dspy.Prediction:
        """The prediction, after the calls of the worker's predictors were added to the current trace."""
        trace = dspy.settings.trace
        for name, given, answered in traced.get("calls", ()):
            if name in predictors and trace is not None:
                predictor = predictors[name]
                trace.append((predictor, given, dspy.Prediction(_typed(predictor.signature, answered))))
        values = {**traced.get("prediction", {}), **_under_dspy_names(self._names, outputs)}
        signature = getattr(module, "signature", None)
        return dspy.Prediction(_typed(signature, values) if signature is not None else dict(values))


def _under_dspy_names(names: Mapping[str, str], outputs: Mapping[str, Any]) -> dict[str, Any]:
    ours = {name: dspy_name for dspy_name, name in names.items()}
    return {ours.get(name, name): value for name, value in outputs.items()}


def _typed(signature: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the signature's types, as DSPy reads an answer; what does not fit stays as it is."""
    found = dict(values)
    for name, output in signature.output_fields.items():
        if name in found and found[name] is not None:
            try:
                found[name] = parse_value(found[name], output.annotation)
            except (ValueError, TypeError):
                continue
    return found


def _state_text(predictors: Predictors) -> str:
    """The state of the predictors as JSON text, without the models that they were put on here: the program names its
    own."""
    state = {name: predictor.dump_state() for name, predictor in predictors.items()}
    kept = {name: {"demos": each["demos"], "signature": each["signature"]} for name, each in state.items()}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False, default=stored)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _rollout_options(predictors: Predictors) -> Mapping[str, Any]:
    """The id and the temperature of a rollout: optimisers ask again for other answers with a copy of the model."""
    lms = [predictor.lm for predictor in predictors.values()] + [dspy.settings.lm]
    options = next((getattr(lm, "kwargs", {}) for lm in lms if lm is not None), {})
    if options.get("rollout_id") is None:
        return {}
    return {name: options.get(name) for name in ("rollout_id", "temperature")}
