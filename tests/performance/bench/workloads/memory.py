"""Resident memory of a worker: ready, with 500 in flight, and after thousands of executions.

The worker has what its image has installed, and no more: redis-py, for one, loads OpenTelemetry's SDK (4 MiB) wherever
it finds it.
"""

from __future__ import annotations

import psutil

from dspex.client.client import Client
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_most
from tests.performance.bench.queues import celery
from tests.performance.bench.workloads.model_bound import program
from tests.performance.bench.workloads.noop import settle_rate, warm_up
from tests.waiting import wait_for

NAME = "memory of a worker"
IN_FLIGHT = 500
PREFORK = "Celery prefork child with LiteLLM"


def run(context: Context) -> list[Figure]:
    count = context.size(10_000, 2_000)
    found: list[tuple[float, float, float]] = []
    children: list[float] = []
    without_dspy: list[float] = []
    with context.model() as url:
        for _ in range(min(context.repeats, 2)):  # memory hardly differs from run to run
            found.append(worker_memory(context, url, count))
            without_dspy.append(ready_memory(context, url))
            children.append(child_memory(context, url))
            ready, busy, growth = found[-1]
            context.told(
                f"ready {ready:.0f} MiB, busy {busy:.0f} MiB, growth {growth:.1f} %; child {children[-1]:.0f} MB"
            )
    ready_all, busy_all, growth_all = zip(*found, strict=True)
    return [
        Figure(f"{NAME}, ready", "DSPex", "MiB", ready_all, at_most(130), "a program of DSPy is deployed"),
        Figure(f"{NAME}, ready", "DSPex, adapter direct only", "MiB", without_dspy),
        Figure(f"{NAME}, {IN_FLIGHT} in flight", "DSPex", "MiB", busy_all, at_most(200)),
        Figure(f"{NAME}, growth over {count:,} executions", "DSPex", "%", growth_all, at_most(5)),
        Figure(f"{NAME}, ready", PREFORK, "MiB", children, note="after one task; each child runs one task at a time"),
    ]


def worker_memory(context: Context, model_url: str, count: int) -> tuple[float, float, float]:
    """Megabytes when ready and with 500 in flight, and the growth in percent from after those 500 on."""
    with context.deployment() as client:
        client.deploy(program(model_url, 200))
        with context.worker(client, python=context.peer("image"), DSPEX_WORKER_CONCURRENCY=IN_FLIGHT) as worker:
            ready = megabytes(worker.pid)
            warm_up(client, at_once=IN_FLIGHT * 2)
            busy = busy_memory(client, worker.pid, model_url)
            client.deploy(program(model_url, 200))
            settle_rate(client, IN_FLIGHT * 2)
            before = megabytes(worker.pid)
            settle_rate(client, count)
            return ready, busy, (megabytes(worker.pid) / before - 1) * 100


def busy_memory(client: Client, pid: int, model_url: str) -> float:
    """Megabytes while 500 executions wait for their answers of five seconds."""
    client.deploy(program(model_url, 5_000))
    batch = client.submit_many("noop", ({"question": str(number)} for number in range(IN_FLIGHT)))
    wait_for(lambda: batch.progress.running == IN_FLIGHT, f"{IN_FLIGHT} executions to run")
    found = megabytes(pid)
    wait_for(lambda: batch.progress.finished == IN_FLIGHT, f"{IN_FLIGHT} executions to settle", timeout=120)
    return found


def ready_memory(context: Context, model_url: str) -> float:
    """Of a worker whose programs do without DSPy."""
    with context.deployment() as client:
        client.deploy(program(model_url, adapter="direct"))
        with context.worker(client, python=context.peer("image")) as worker:
            return megabytes(worker.pid)


def child_memory(context: Context, model_url: str) -> float:
    python = context.peer("celery")
    with (
        context.peer_environment(PEER_MODEL=f"{model_url}/0/v1", PEER_ENGINE="litellm") as environment,
        context.process([python, *celery("celery_dspy", pool="prefork", concurrency=1)], environment) as process,
    ):
        context.ask([python, "celery_dspy.py", "20"], environment)
        return max(megabytes(child.pid) for child in psutil.Process(process.pid).children())


def megabytes(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20
