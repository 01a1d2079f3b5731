"""How throughput moves with 1, 2 and 4 worker processes."""

from __future__ import annotations

import os
from contextlib import ExitStack

import dspex
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure
from tests.performance.bench.workloads.model_bound import program as model_program
from tests.performance.bench.workloads.noop import program, settle_rate, warm_up


def run(context: Context) -> list[Figure]:
    numbers = (1, 2) if context.quick else (1, 2, 4)
    with context.model() as url:
        programs = {
            "no-op": (program(), context.size(10_000, 2_000)),
            "model-bound": (model_program(url), context.size(4_000, 1_500)),
        }
        found: dict[tuple[str, int], list[float]] = {(name, n): [] for name in programs for n in numbers}
        for _ in range(context.repeats):
            for (name, number), rates in found.items():
                rate = processes_rate(context, *programs[name], number)
                rates.append(rate)
                context.told(f"{name}, {number} processes: {rate:,.0f}/s")
    note = f"{os.cpu_count()} cores, which Postgres, Redis, the producer and the model share"
    return [
        Figure(f"{name} executions/s by processes", f"{number} processes", "/s", rates, note=note, at=number)
        for (name, number), rates in found.items()
    ]


def processes_rate(context: Context, work: dspex.Program, count: int, processes: int) -> float:
    with context.deployment() as client, ExitStack() as stack:
        client.deploy(work)
        for _ in range(processes):
            stack.enter_context(context.worker(client, DSPEX_WORKER_CONCURRENCY=500 // processes))
        warm_up(client, at_once=200)
        return settle_rate(client, count)
