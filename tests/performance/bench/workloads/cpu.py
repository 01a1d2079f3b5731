"""CPU of the worker process for each execution, beyond what DSPy itself takes.

DSPy's own is a ``dspy.Predict`` that asks a model over HTTP with a good client: the bare loop, whose engine is ours and
costs less than DSPy's. The worker adds claim, journal, trail, validation and settlement. Beside it, without a goal: how
much that is beyond DSPy on its own engine, and beyond DSPy that is answered without HTTP.
"""

from __future__ import annotations

import psutil

from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_most
from tests.performance.bench.workloads.model_bound import BARE, bare, program
from tests.performance.bench.workloads.noop import settle_rate, warm_up

NAME = "CPU per execution"
CANNED = "dspy.Predict, answered without HTTP"
OWN = "dspy.Predict, on its own engine"


def run(context: Context) -> list[Figure]:
    count = context.size(3_000, 1_500)
    found: dict[str, list[float]] = {"DSPex": [], BARE: [], OWN: [], CANNED: []}
    with context.model() as url:
        for _ in range(context.repeats):
            found["DSPex"].append(worker_ms(context, url, count))
            found[BARE].append(bare(context, "engine", f"{url}/200/v1", count)["cpu_ms"])
            found[OWN].append(bare(context, "dspy", f"{url}/200/v1", count)["cpu_ms"])
            found[CANNED].append(bare(context, "canned", count)["cpu_ms"])
            context.told(", ".join(f"{name}: {values[-1]:.2f} ms" for name, values in found.items()))
    return [
        *(Figure(NAME, name, "ms", values) for name, values in found.items()),
        Figure(f"{NAME}, beyond the bare loop's", "DSPex", "ms", less(found["DSPex"], found[BARE]), at_most(1)),
        Figure(f"{NAME}, beyond DSPy's on its own engine", "DSPex", "ms", less(found["DSPex"], found[OWN])),
        Figure(f"{NAME}, beyond DSPy's without HTTP", "DSPex", "ms", less(found["DSPex"], found[CANNED])),
    ]


def worker_ms(context: Context, model_url: str, count: int) -> float:
    with context.deployment() as client:
        client.deploy(program(model_url))
        with context.worker(client, DSPEX_WORKER_CONCURRENCY=500) as worker:
            warm_up(client, at_once=500)
            process = psutil.Process(worker.pid)
            before = cpu_seconds(process)
            settle_rate(client, count)
            return (cpu_seconds(process) - before) * 1000 / count


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def less(ours: list[float], theirs: list[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]
