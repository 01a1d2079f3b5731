"""Idle latency: from submit to the result in hand, one no-op after the other, nothing else going on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from dspex.client.client import Client
from tests.performance.bench.context import Context
from tests.performance.bench.figures import Figure, at_most, percentile
from tests.performance.bench.queues import QUEUES, Queue
from tests.performance.bench.workloads.noop import program, warm_up

PEERS = ("taskiq", "DBOS")
GOALS = {50: at_most(10), 99: at_most(30)}


def run(context: Context) -> list[Figure]:
    count = context.size(500, 150)
    contenders: dict[str, Callable[[], Sequence[float]]] = {
        "DSPex": partial(dspex_latencies, context, count),
        **{name: partial(peer_latencies, context, QUEUES[name], count) for name in PEERS},
    }
    found: dict[str, list[Sequence[float]]] = {name: [] for name in contenders}
    for _ in range(context.repeats):
        for name, measure in contenders.items():
            found[name].append(measure())
            context.told(f"{name}: p50 {percentile(found[name][-1], 50):.1f} ms")
    return [
        Figure(
            f"idle latency p{percent}", name, "ms", [percentile(ms, percent) for ms in runs],
            goal if name == "DSPex" else None,
        )
        for percent, goal in GOALS.items()
        for name, runs in found.items()
    ]  # fmt: skip


def dspex_latencies(context: Context, count: int) -> list[float]:
    with context.deployment() as client:
        client.deploy(program())
        with context.worker(client):
            warm_up(client)
            return latencies(client, count)


def latencies(client: Client, count: int) -> list[float]:
    """Milliseconds of each of so many no-ops, one after the other."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        client.execute("noop", {"question": str(number)}, timeout=60)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def peer_latencies(context: Context, queue: Queue, count: int) -> list[float]:
    with queue.running(context) as producer:
        return [float(ms) for ms in producer.ask("latency", count)["ms"]]
