"""What hosting costs by adapter: CPU per execution without claim and settlement, and memory when ready."""

from __future__ import annotations

from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure
from tests.performance.bench_adapters import measure


def run(context: Context) -> list[Figure]:
    found = [measure(context.size(2_000, 500), repeats=1) for _ in range(context.repeats)]
    return [
        Figure(name, case, unit, [run[case][key] for run in found])
        for name, unit, key in (
            ("CPU per execution by adapter", "ms", "cpu_ms"),
            ("memory by adapter, ready", "MB", "ready_mb"),
        )
        for case in found[0]
    ]
