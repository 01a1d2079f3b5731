"""Executions per second with a model of 200 ms and 500 in flight, everything durable and journaled, in one worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import dspex
from tests.performance.bench.context import ROOT, Context
from tests.performance.bench.figures import Figure, alternate, at_least, ratio
from tests.performance.bench.queues import celery
from tests.performance.bench.workloads.noop import SIGNATURE, settle_rate, warm_up

NAME = "model-bound executions/s"
BARE = "bare asyncio loop"
CELERY, LITELLM = "Celery + dspy.Predict", "Celery + dspy.Predict on LiteLLM"
ENGINES = {CELERY: "auto", LITELLM: "litellm"}


def run(context: Context) -> list[Figure]:
    counts = {CELERY: context.size(2_000, 600), LITELLM: context.size(1_000, 300)}
    ours = context.size(5_000, 2_000)
    with context.model() as url:
        contenders: dict[str, Callable[[], float]] = {
            "DSPex": partial(dspex_rate, context, url, ours, adapter="dspy"),
            "DSPex, adapter direct": partial(dspex_rate, context, url, ours, adapter="direct"),
            BARE: partial(bare_rate, context, url, ours),
            **{name: partial(celery_rate, context, url, engine, counts[name]) for name, engine in ENGINES.items()},
        }
        found = alternate(contenders, context.repeats, context.told)
    goals = {BARE: at_least(0.75), CELERY: at_least(2.5), LITELLM: at_least(4)}
    return [
        *(Figure(NAME, name, "/s", values) for name, values in found.items()),
        *(ratio(f"{NAME}, to {name}", found["DSPex"], found[name], goal) for name, goal in goals.items()),
    ]


def program(model_url: str, delay_ms: int = 200, *, adapter: str = "dspy") -> dspex.Program:
    base = f"{model_url}/{delay_ms}/v1"
    return dspex.Program("noop", SIGNATURE, model="openai/fake", api_base=base, adapter=adapter)


def dspex_rate(context: Context, model_url: str, count: int, *, adapter: str) -> float:
    with context.deployment() as client:
        client.deploy(program(model_url, adapter=adapter))
        with context.worker(client, DSPEX_WORKER_CONCURRENCY=500):
            warm_up(client, at_once=200)
            return settle_rate(client, count)


def bare_rate(context: Context, model_url: str, count: int) -> float:
    return count / bare(context, "engine", f"{model_url}/200/v1", count)["seconds"]


def bare(context: Context, *arguments: object) -> dict[str, float]:
    """What tests/performance/bench/bare.py measures."""
    command = [sys.executable, "-m", "tests.performance.bench.bare", *map(str, arguments)]
    found: dict[str, float] = context.ask(command, {"PYTHONPATH": str(ROOT)})
    return found


def celery_rate(context: Context, model_url: str, engine: str, count: int) -> float:
    python = context.peer("celery")
    model = f"{model_url}/200/v1"
    with (
        context.peer_environment(PEER_MODEL=model, PEER_ENGINE=engine) as environment,
        context.process([python, *celery("celery_dspy")], environment),
    ):
        return count / float(context.ask([python, "celery_dspy.py", str(count)], environment)["seconds"])
