"""The metric of an evaluation: an action around the program, whose result is the score of its outputs.

What a metric does wrong is recorded apart from the program, which has completed: the metric raised, gave no score, or
took too long. What may pass (a limit that is reached, a model that is out of reach) ends the attempt, and the next one
replays the calls that were answered.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dspex.errors import ActionFailed, DspexError, EncryptionError, ProgramError
from dspex.program.actions import Action
from dspex.program.improvement.purpose import Purpose, row_context
from dspex.scoring.builtin_metrics import BUILT_IN_METRICS
from dspex.scoring.score_statistics import SCORE_MOST
from dspex.sealing.values import SEALED, Sealing
from workers.actions import ActionFunction, ActionRun, Proceed
from workers.adapters.contract import Run
from workers.attempt.supervision import raised_by

__all__ = [
    "METRIC_ACTION",
    "BoundMetric",
    "Metric",
    "MetricHost",
    "ScoredRow",
    "built_in_metric",
    "score_of",
    "scored_row",
]

#: Its name is no name of a program's own action.
METRIC_ACTION = Action("metric")
#: The time that an attempt keeps for its settlement.
SETTLE_SECONDS = 1.0
#: The most characters of a metric's feedback that are kept.
FEEDBACK_MOST = 20_000


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row of a dataset: what a metric compares the outputs with."""

    inputs: Mapping[str, Any]
    labels: Mapping[str, Any]


Metric = Callable[[ScoredRow, Mapping[str, Any]], Awaitable[Any]]


class MetricHost(Protocol):
    """An adapter that can run users' metrics: the one for DSPy."""

    async def metric(self, run: Run, reference: str) -> Metric:
        """The metric that ``package.module:function`` names, with its model calls made and journaled by the run.

        Raises ModuleNotAllowed, and ProgramError ``metric_not_found`` when this worker does not have it.
        """
        ...


def built_in_metric(name: str) -> Metric:
    """One of DSPex's own metrics, which take no time."""
    function = BUILT_IN_METRICS[name]

    async def score(row: ScoredRow, outputs: Mapping[str, Any]) -> Any:
        return function({**row.inputs, **row.labels}, outputs)

    return score


def scored_row(purpose: Purpose, stored: str | None, sealing: Sealing) -> ScoredRow:
    """The row of the dataset, opened. Raises ProgramError when it is gone, EncryptionError without its key."""
    if stored is None:
        raise ProgramError(f"row {purpose.row} of dataset {purpose.dataset} is not stored", code="dataset_row_missing")
    content = json.loads(stored)
    if SEALED in content:
        if sealing.keyring is None:
            raise EncryptionError(
                "this worker has no key for the dataset: set DSPEX_ENCRYPTION_KEY",
                code="encryption_key_missing", retryable=True,
            )  # fmt: skip
        content = sealing.open_whole(content, row_context(purpose.dataset, purpose.row))
    return ScoredRow(content["inputs"], content["labels"])


@dataclass(frozen=True, slots=True)
class BoundMetric:
    """A metric and the row that it scores by."""

    purpose: Purpose
    row: ScoredRow
    metric: Metric

    def action(self, note: Callable[[float], None]) -> ActionFunction:
        """The metric as an action, which gives its score to ``note``."""

        async def action(run: ActionRun, proceed: Proceed) -> Mapping[str, Any]:
            outputs = await proceed()
            try:
                score, feedback = score_of(await self._asked(run.run, outputs))
            except DspexError as error:
                if error.retryable and run.run.attempt < run.program.retry.max_attempts:
                    raise
                return {"error": {"code": error.code, "message": str(error)}}
            note(score)
            return {"score": score, **({} if feedback is None else {"feedback": feedback[:FEEDBACK_MOST]})}

        return action

    async def _asked(self, run: Run, outputs: Mapping[str, Any]) -> Any:
        """What the metric gave. Raises DspexError: of a model that it called, or ActionFailed."""
        left = min(self.purpose.metric_seconds, run.deadline - time.monotonic() - SETTLE_SECONDS)
        try:
            async with asyncio.timeout(max(left, 0.0)) as timer:
                return await self.metric(self.row, outputs)
        except DspexError:
            raise
        except Exception as error:  # the boundary to code that is not ours: its text may quote values
            if timer.expired():
                why = f"the metric took longer than {max(left, 0.0):.3g} s"
                raise ActionFailed(why, code="metric_timeout") from None
            raised = raised_by(error)
            raise ActionFailed(f"the metric raised {type(raised).__name__}", code="metric_error") from raised


def score_of(returned: Any) -> tuple[float, str | None]:
    """The score and the feedback of what a metric returned: a number, or an object or a mapping with ``score``.

    Raises ActionFailed ``metric_no_score``.
    """
    try:
        given, feedback = _parts(returned)
        score = math.nan if given is None or isinstance(given, str) else float(given)
        text = None if feedback is None else str(feedback)
    except Exception as error:  # the boundary to code that is not ours: its text may quote values
        why = f"the metric gave a {type(returned).__name__}, of which reading the score raised {type(error).__name__}"
        raise ActionFailed(why, code="metric_no_score") from error
    if not abs(score) <= SCORE_MOST:
        shown = f"{given}" if isinstance(given, float) else f"a {type(given).__name__}"
        raise ActionFailed(
            f"the metric gave {shown}, not a number of {SCORE_MOST:g} at most or an object with such a score",
            code="metric_no_score",
        )
    return score, text


def _parts(returned: Any) -> tuple[Any, Any]:
    """The score and the feedback as they were given."""
    if isinstance(returned, Mapping):
        return returned.get("score"), returned.get("feedback")
    if not isinstance(returned, bool | int | float) and hasattr(returned, "score"):
        return returned.score, getattr(returned, "feedback", None)
    return returned, None
