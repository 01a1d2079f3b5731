"""``dspex batch --dry-run`` and ``--max-cost``: run a sample of the rows, and show what all of them will cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from dspex.cli.batches.batch_input import BatchInput
from dspex.cli.output.failure_causes import causes_text
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.errors import DspexError
from dspex.operations.report.batch_estimate import (
    BatchEstimate,
    Interval,
    SampledRow,
    batch_estimate,
    spread_indexes,
)
from dspex.operations.report.dollars import dollars
from dspex.operations.report.report_tables import duration
from dspex.program.program import Program
from dspex.store.lifecycle.status import Status

__all__ = ["SAMPLE_ROWS", "confirmed_cost", "estimate_data", "estimate_text", "run_sample"]

#: Rows of the sample that ``--max-cost`` takes where ``--dry-run`` gives no other number.
SAMPLE_ROWS = 20
#: Marks the executions of a sample in their metadata.
SAMPLE_METADATA = {"dspex": "sample"}


def run_sample(
    client: Client, program: Program, given: BatchInput, count: int, bars: ProgressBars, priority: int
) -> BatchEstimate | None:
    """Execute ``count`` rows that are spread over the input, as a batch of their own; None for an input without rows.

    The sample is paid for: its executions are real, and so is what is measured.
    """
    indexes = spread_indexes(given.rows, count)
    if not indexes:
        return None
    batch, intake = client._submitter.begin(program, priority=priority, metadata=SAMPLE_METADATA)
    rejected = intake.add(list(given.sample(indexes)))
    rows = [SampledRow(failure="rejected") for _ in rejected]
    if not client.workers() and len(batch):
        echo("no worker is alive; waiting: start one with `dspex worker`, on this host or another", err=True)
    with bars.phase("sampling", len(indexes), done=len(rows)) as on_progress:
        for execution in client.batch(batch.id).as_completed() if len(batch) else ():
            rows.append(_sampled(execution))
            on_progress(len(rows))
    limits = program.limits
    slots = sum(int(worker["concurrency"]) for worker in client.workers() if worker["live"])
    slots = min(slots or 1, limits.concurrency or sys.maxsize, given.rows)
    model = None if program.api_base or program.model is None else program.main_model.model
    return batch_estimate(rows, given.rows, slots=slots, per_minute=limits.per_minute, model=model)


def estimate_text(estimate: BatchEstimate) -> str:
    """The estimate in a few lines."""
    good = estimate.sampled - sum(estimate.causes.values())
    causes = f", {causes_text(estimate.causes)}" if estimate.causes else ""
    lines = [
        f"a sample of {estimate.sampled:,} rows, spread over {estimate.rows:,}: {good:,} completed{causes}",
        f"all {estimate.rows:,} rows will take, with 95 % confidence:",
        f"  cost      {_cost(estimate)}",
        f"  tokens    {_range(estimate.tokens, lambda value: f'{value:,.0f}')}",
        f"  time      {_range(estimate.seconds, duration)}, {estimate.slots:,} at once",
        f"  failures  {_range(estimate.failure_rate.times(100), lambda value: f'{value:.2g} %')}",
    ]
    return "\n".join(lines)


def estimate_data(estimate: BatchEstimate) -> Mapping[str, Any]:
    """The estimate as ``--json`` prints it. A bound that is not known is null."""
    return {"estimate": _finite(asdict(estimate))}


def confirmed_cost(estimate: BatchEstimate, most_usd: float, *, yes: bool) -> Interval:
    """The expected cost, once the user agreed to it if it may be more than ``--max-cost``.

    Raises DspexError for a cost that is not known, and where there is no terminal to ask on; click.Abort when the user
    declines.
    """
    cost = estimate.cost_usd
    if cost is None:
        raise DspexError(
            "the price of a model is not known, so --max-cost cannot be kept: nothing but the sample was run. Use a "
            "model with a known price, or leave out --max-cost",
            code="cost_limit", max_cost_usd=most_usd,
        )  # fmt: skip
    if yes or cost.high <= most_usd:
        return cost
    message = f"all {estimate.rows:,} rows will cost {_range(cost, dollars)}, and --max-cost is {dollars(most_usd)}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise DspexError(
            f"{message}: nothing but the sample was run. Add --yes to run rows until that is spent", code="cost_limit",
            max_cost_usd=most_usd, expected_usd=cost.value,
        )  # fmt: skip
    click.confirm(f"{message}. Run rows until that is spent?", abort=True, err=True)
    return cost


def _sampled(execution: Execution) -> SampledRow:
    metrics = execution.metrics
    failed = execution.status is not Status.COMPLETED
    return SampledRow(
        cost_usd=None if metrics.unpriced_lm_calls else metrics.cost_usd or 0.0,
        tokens=metrics.prompt_tokens + metrics.completion_tokens,
        seconds=metrics.execution_time_ms / 1000,
        failure=(execution.cause_code or str(execution.status)) if failed else None,
    )


def _cost(estimate: BatchEstimate) -> str:
    if estimate.cost_usd is None:
        return "unknown: the price of a model is not known"
    routes = "".join(
        f'; route="{name}" {dollars(cost.value) if cost else "unknown"}' for name, cost in estimate.routes.items()
    )
    return _range(estimate.cost_usd, dollars) + routes


def _range(interval: Interval, text: Any) -> str:
    if interval.low == interval.high:
        return str(text(interval.value))
    high = "?" if math.isinf(interval.high) else text(interval.high)
    return f"{text(interval.value)} ({text(interval.low)} to {high})"


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    return None if isinstance(data, float) and not math.isfinite(data) else data
