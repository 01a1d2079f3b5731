"""Modules that try several times and keep the best answer by a reward: DSPy's BestOfN and Refine, on the loop.

DSPy's own run in a thread, print what fails (which may quote an answer), count any failure as a bad try, and keep
that count on the module, which executions share. Here a try is bad only when its answer is; whatever else is in the
way ends the attempt, and the next one replays the tries that were answered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dspy
import orjson
from dspy.predict.refine import OfferFeedback, inspect_modules, recursive_mask
from dspy.utils.exceptions import AdapterParseError

from workers.attempt.sync_threads import run_sync

__all__ = ["BestOfN", "Refine"]

Reward = Callable[[Mapping[str, Any], dspy.Prediction], Any]


class _Best:
    """The best answer so far, and whether it is good enough."""

    def __init__(self, threshold: float) -> None:
        self.prediction: dspy.Prediction | None = None
        self.failure: AdapterParseError | None = None
        self._reward = float("-inf")
        self._threshold = threshold

    def consider(self, prediction: dspy.Prediction, reward: float) -> bool:
        """Keep the better one; whether it reaches the threshold."""
        if self.prediction is None or reward > self._reward:
            self.prediction, self._reward = prediction, reward
        return reward >= self._threshold

    def found(self) -> dspy.Prediction:
        """Raises the last failure when no answer could be read at all."""
        if self.prediction is None:
            assert self.failure is not None
            raise self.failure
        return self.prediction


class BestOfN(dspy.BestOfN):  # type: ignore[misc]
    """Up to ``N`` answers at temperature 1, until one has the reward ``threshold``; else the one with the highest."""

    def __init__(self, module: dspy.Module, *, N: int, reward_fn: Reward, threshold: float) -> None:  # noqa: N803
        super().__init__(module=module, N=N, reward_fn=reward_fn, threshold=threshold)
        self._score = _score_of(reward_fn)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        best = _Best(self.threshold)
        for module in _tries(self.module, self.N):
            try:
                prediction = await module.acall(**inputs)
            except AdapterParseError as error:
                best.failure = error
                continue
            if best.consider(prediction, await self._score(inputs, prediction)):
                break
        return best.found()


class Refine(dspy.Refine):  # type: ignore[misc]
    """As BestOfN, and after each answer that is not good enough the model writes hints for the next one."""

    def __init__(self, module: dspy.Module, *, N: int, reward_fn: Reward, threshold: float) -> None:  # noqa: N803
        super().__init__(module=module, N=N, reward_fn=reward_fn, threshold=threshold)
        self._score = _score_of(reward_fn)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        best, hints = _Best(self.threshold), None
        for number, module in enumerate(_tries(self.module, self.N), 1):
            trace: list[Any] = []
            try:
                with dspy.context(trace=trace, adapter=_hinting(dspy.settings.adapter, module, hints)):
                    prediction = await module.acall(**inputs)
            except AdapterParseError as error:
                best.failure = error
                continue
            reward = await self._score(inputs, prediction)
            if best.consider(prediction, reward) or number == self.N:
                break
            hints = await self._ask_for_hints(module, inputs, trace, prediction, reward)
        return best.found()

    async def _ask_for_hints(
        self, module: dspy.Module, inputs: Any, trace: list[Any], prediction: dspy.Prediction, reward: float
    ) -> Mapping[str, str]:
        """A hint for each predictor, from the model itself, by DSPy's own question."""
        names = {predictor: name for name, predictor in module.named_predictors()}
        trajectory = [
            {"module_name": names[predictor], "inputs": given, "outputs": dict(answer)}
            for predictor, given, answer in trace
        ]
        asked = {
            "program_code": self.module_code,
            "modules_defn": inspect_modules(module),
            "program_inputs": inputs,
            "program_trajectory": trajectory,
            "program_outputs": dict(prediction),
            "reward_code": self.reward_fn_code,
            "target_threshold": self.threshold,
            "reward_value": reward,
            "module_names": list(names.values()),
        }
        texts = {name: value if isinstance(value, str) else _json(value) for name, value in asked.items()}
        offered = await dspy.Predict(OfferFeedback).acall(**texts)
        return dict(offered.advice)


def _tries(module: dspy.Module, count: int) -> Iterator[dspy.Module]:
    """Copies of the module at temperature 1. Their requests are equal: the journal uses their order."""
    for _ in range(count):
        copy = module.deepcopy()
        copy.set_lm(dspy.settings.lm.copy(temperature=1.0))
        yield copy


def _score_of(reward: Reward) -> Callable[[Mapping[str, Any], dspy.Prediction], Any]:
    """The reward function, awaited: a coroutine function on the loop, any other in a thread of the worker's."""

    async def score(inputs: Mapping[str, Any], prediction: dspy.Prediction) -> float:
        if inspect.iscoroutinefunction(reward):
            return float(await reward(inputs, prediction))
        return float(await run_sync(reward, inputs, prediction))

    return score


def _hinting(adapter: dspy.Adapter, module: dspy.Module, hints: Mapping[str, str] | None) -> dspy.Adapter:
    """The adapter, with each predictor's hint added to its inputs."""
    if not hints:
        return adapter
    names = {predictor.signature: name for name, predictor in module.named_predictors()}
    return _Hinting(adapter, {signature: hints.get(name, "N/A") for signature, name in names.items()})


class _Hinting(dspy.Adapter):  # type: ignore[misc]
    def __init__(self, adapter: dspy.Adapter, hints: Mapping[type[dspy.Signature], str]) -> None:
        super().__init__()
        self._adapter = adapter
        self._hints = hints

    async def acall(
        self,
        lm: Any,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        if signature in self._hints:
            inputs = {**inputs, "hint_": self._hints[signature]}
            hint = dspy.InputField(desc="A hint to the module from an earlier run")
            signature = signature.append("hint_", hint)
        answers: list[dict[str, Any]] = await self._adapter.acall(lm, lm_kwargs, signature, demos, inputs)
        return answers


def _json(value: Any) -> str:
    return orjson.dumps(recursive_mask(value), option=orjson.OPT_INDENT_2).decode()
