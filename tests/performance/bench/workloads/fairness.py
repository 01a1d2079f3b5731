"""How long single executions wait while another program has a long queue and holds every slot."""

from __future__ import annotations

from typing import Any

from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_most, ratio
from tests.performance.bench_fairness import measure

NAME = "p95 wait of single executions"


def run(context: Context) -> list[Figure]:
    backlog = context.size(100_000, 10_000)
    found: list[dict[str, Any]] = [
        measure(context, backlog=backlog, singles=context.size(100, 40), rounds=1) for _ in range(context.repeats)
    ]
    idle, busy = ([run[f"{when}_p95_ms"] for run in found] for when in ("idle", "busy"))
    return [
        Figure(NAME, "idle", "ms", idle),
        Figure(NAME, f"{backlog:,} of another program queued", "ms", busy),
        ratio(f"{NAME}, to idle", busy, idle, at_most(2)),
    ]
