"""Users' metrics, as DSPy calls them: ``(example, prediction, trace=None)``, GEPA's form with five arguments, or a
coroutine function of either form.

A metric is always called in a thread: code that blocks, whatever it is, stops no other execution. A coroutine runs on a
loop of that thread. Its model calls are made on the worker's loop, as any program's are.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy

from dspex.errors import ProgramError
from dspex.program.calls.parameters import signature_of
from dspex.program.program import Program
from workers.adapters.user_code import allowed_packages, load
from workers.attempt.sync_threads import run_sync

__all__ = ["call_metric", "load_metric", "returned"]


def load_metric(program: Program, reference: str) -> Callable[..., Any]:
    """The metric. Raises ModuleNotAllowed, and ProgramError ``metric_not_found``: the program itself can run here."""
    try:
        return load(program, reference, allowed_packages())
    except ProgramError as error:
        raise ProgramError(
            f"metric {reference!r}: {error}", code="metric_not_found", retryable=error.retryable, reference=reference
        ) from error


async def call_metric(
    metric: Callable[..., Any], inputs: Mapping[str, Any], labels: Mapping[str, Any], outputs: Mapping[str, Any]
) -> Any:
    """What the metric returns for these outputs."""
    example = dspy.Example({**inputs, **labels}).with_inputs(*inputs)
    arguments = (example, dspy.Prediction(dict(outputs)), *(None for _ in range(_needed(metric) - 2)))
    return await run_sync(returned, metric, arguments)


def returned(metric: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What the metric returns, called in this thread; a coroutine runs to its end on a loop of the thread."""
    given = metric(*arguments)
    return asyncio.run(given) if inspect.iscoroutine(given) else given


def _needed(metric: Callable[..., Any]) -> int:
    """How many arguments it has to be called with."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = signature_of(metric).parameters.values()
    return sum(parameter.kind in kinds and parameter.default is parameter.empty for parameter in parameters)
