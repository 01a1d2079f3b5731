"""A program as a metric: it is run within the execution that it judges, so its model calls are journaled there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from dspex.errors import ActionFailed, ValidationError
from dspex.program.program import Program
from dspex.scoring.judges import judge_inputs
from workers.actions.scoring import Metric, ScoredRow
from workers.adapters.contract import Adapter, Run

__all__ = ["judge_metric"]


def judge_metric(run: Run, judge: Program, adapter: Callable[[], Awaitable[Adapter]]) -> Metric:
    """The metric that a judge is: its outputs ``score``, and ``feedback`` if it has one."""

    async def score(row: ScoredRow, outputs: Mapping[str, Any]) -> Any:
        names = [field.name for field in judge.signature.input_fields]
        given = judge_inputs(names, row.inputs, row.labels, outputs)
        try:
            inputs = judge.signature.validate_inputs(given)
        except ValidationError as error:
            why = f"the judge {judge.name!r} cannot be given this row: {error}"
            raise ActionFailed(why, code="judge_input") from None
        judged = replace(run, program=judge, inputs=inputs, repairs=[], stream=None, traced=None, temperature=None)
        raw = await (await adapter()).execute(judged)
        try:
            return judge.signature.validate_outputs(raw)
        except ValidationError as error:
            raise ActionFailed(f"the judge {judge.name!r} answered badly: {error}", code="judge_output") from None

    return score
