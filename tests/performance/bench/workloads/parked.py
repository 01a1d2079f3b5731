"""Executions that wait: what a call through a provider's batch API costs a worker, a program of three steps over many
rows in few bundles, and children beside a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

import dspex
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.testing.model_batches import BatchScript
from tests.model_server import ModelServer
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_least, at_most, ratio
from tests.performance.bench.workloads.cpu import cpu_seconds, less
from tests.performance.bench.workloads.noop import program as noop
from tests.waiting import wait_for

CPU = "CPU per execution of one call"
STEPS = "three steps through batches"
CHILDREN = "children/s of one parent"
SIGNATURE = dspex.signature(":string question -> :string answer")
SETTINGS: dict[str, Any] = {
    "DSPEX_PROGRAM_PACKAGES": "tests.waiting_programs",
    "DSPEX_BATCH_POLL_SECONDS": 0.2,
    "DSPEX_WORKER_CONCURRENCY": 500,
}
FANNED_OUT = 1_000


def run(context: Context) -> list[Figure]:
    costs: dict[str, list[float]] = {"ordinary": [], "through a batch": []}
    steps: list[dict[str, float]] = []
    rates: dict[str, list[float]] = {"children": [], "as a batch": []}
    for _ in range(context.repeats):
        for route, name in (("standard", "ordinary"), ("batch", "through a batch")):
            costs[name].append(cpu_ms(context, route, context.size(3_000, 300)))
        steps.append(three_steps(context, context.size(2_000, 100)))
        rates["children"].append(children_rate(context))
        rates["as a batch"].append(batch_rate(context))
        context.told(f"{[(name, values[-1]) for name, values in costs.items()]} {steps[-1]} {rates}")
    more = less(costs["through a batch"], costs["ordinary"])
    return [
        *(Figure(CPU, name, "ms", values) for name, values in costs.items()),
        Figure(f"{CPU}, through a batch, beyond an ordinary call", "DSPex", "ms", more, at_most(2)),
        *(Figure(f"{STEPS}: {name}", "DSPex", "", [each[name] for each in steps]) for name in steps[0]),
        *(Figure(CHILDREN, name, "/s", values) for name, values in rates.items()),
        ratio(f"{CHILDREN}, to a batch", rates["children"], rates["as a batch"], at_least(0.8)),
    ]


def cpu_ms(context: Context, route: str, count: int) -> float:
    """Of the worker, which leads and so takes the bundles through the batch API, too."""
    with _deployed(context, route=route, adapter="direct") as (client, server), context.worker(
        client, **SETTINGS, DSPEX_BATCH_FILL_SECONDS=3
    ) as worker:  # fmt: skip
        _ended(_submitted(client, 20))
        process = psutil.Process(worker.pid)
        before, asked = cpu_seconds(process), server.calls()["total"]
        _ended(_submitted(client, count))
        assert server.calls()["total"] - asked == count
        return (cpu_seconds(process) - before) * 1000 / count


def three_steps(context: Context, rows: int) -> dict[str, float]:
    """How many requests, bundles and seconds it takes. Each request is answered and paid for once."""
    with _deployed(context, route="batch", module="tests.waiting_programs:Steps") as (client, server), context.worker(
        client, **SETTINGS, DSPEX_BATCH_FILL_SECONDS=10
    ):  # fmt: skip
        began = time.monotonic()
        batch = _submitted(client, rows)
        _ended(batch)
        seconds = time.monotonic() - began
        seen = server.batches()
        ledger = sum(each.metrics.lm_calls for each in batch.as_completed(timeout=60))
        assert (seen["requests"], seen["answered"], seen["asked_twice"], ledger) == (3 * rows, 3 * rows, 0, 3 * rows)
        return {"requests": seen["requests"], "bundles": seen["batches"], "seconds": seconds}


def children_rate(context: Context) -> float:
    with context.deployment() as client, context.worker(client, **SETTINGS):
        client.deploy(noop())
        for name, count in (("warm-up", 1), ("parent", FANNED_OUT)):
            client.deploy(
                dspex.Program(
                    name, SIGNATURE, module="tests.waiting_programs:Asks", model="openai/none",
                    api_base="http://127.0.0.1:9/v1", module_options={"program": "noop", "count": count},
                )
            )  # fmt: skip
        client.execute("warm-up", {"question": "all"}, timeout=60)  # it imports DSPy
        began = time.monotonic()
        client.execute("parent", {"question": "all"}, timeout=120)
        return FANNED_OUT / (time.monotonic() - began)


def batch_rate(context: Context) -> float:
    with context.deployment() as client, context.worker(client, **SETTINGS):
        client.deploy(noop())
        client.execute("noop", {"question": "warm-up"}, timeout=60)
        began = time.monotonic()
        _ended(client.submit_many("noop", ({"question": str(number)} for number in range(FANNED_OUT))), every=0.02)
        return FANNED_OUT / (time.monotonic() - began)


@contextmanager
def _deployed(context: Context, **settings: Any) -> Iterator[tuple[Client, ModelServer]]:
    with ModelServer() as server, context.deployment() as client:
        server.script_batches(BatchScript())
        client.deploy(dspex.Program("qa", SIGNATURE, model="openai/test", api_base=server.api_base, **settings))
        yield client, server


def _submitted(client: Client, count: int) -> Batch:
    return client.submit_many("qa", ({"question": f"number {number} of {count}"} for number in range(count)))


def _ended(batch: Batch, every: float = 0.25) -> None:
    wait_for(lambda: batch.progress.finished == batch.size, "the batch to end", timeout=300, every=every)
    assert batch.progress.completed == batch.size, batch.failures
