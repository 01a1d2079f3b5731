"""How long single executions wait while another program, or another tenant of theirs, has a long queue and holds every
slot."""

from __future__ import annotations

from typing import Any

from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_most, ratio
from tests.performance.bench_fairness import measure, measure_tenants

NAME = "p95 wait of single executions"
OF_TENANTS = "p95 wait of single executions of a tenant"


def run(context: Context) -> list[Figure]:
    backlog = context.size(100_000, 10_000)
    found: list[dict[str, Any]] = [
        measure(context, backlog=backlog, singles=context.size(100, 40), rounds=1) for _ in range(context.repeats)
    ]
    tenants = [measure_tenants(context, backlog=backlog, singles=context.size(100, 40)) for _ in range(context.repeats)]
    return [
        *_compared(NAME, f"{backlog:,} of another program queued", found),
        *_compared(OF_TENANTS, f"{backlog:,} of another tenant queued", tenants),
    ]


def _compared(name: str, busy: str, found: list[dict[str, Any]]) -> list[Figure]:
    waits = {when: [run[f"{when}_p95_ms"] for run in found] for when in ("idle", "busy")}
    return [
        Figure(name, "idle", "ms", waits["idle"]),
        Figure(name, busy, "ms", waits["busy"]),
        ratio(f"{name}, to idle", waits["busy"], waits["idle"], at_most(2)),
    ]
