"""Evaluations beside plain batches and DSPy's own Evaluate; a finished optimisation run again; a rollout's overhead.

All on one worker process. Evaluations ask a model of 200 ms, optimisations one that answers at once.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dspy
from dspy.utils import DummyLM

import dspex
from dspex.client.client import Client
from dspex.client.execution import Execution
from tests.performance.bench.context import ROOT, Context
from tests.performance.bench.dspy_evaluate import lm_of
from tests.performance.bench.figures import Figure, alternate, at_least, at_most, ratio
from tests.performance.bench.workloads.model_bound import program
from tests.performance.bench.workloads.noop import warm_up
from workers.adapters.dspy.modules import build_module

RATE = "evaluated rows/s"
BATCH, DEFAULT, MANY = "plain batch", "dspy.Evaluate, default threads", "dspy.Evaluate, 500 threads"
AGAIN = "a finished optimisation, run again"
CANCEL = "cancelling a job with 500 queued executions"
OVERHEAD = "GEPA, dspex.remote beside local"
ROWS_OF_SEARCH, ROW_BYTES = 200, 2_000
#: The evaluations of a random search with 7 candidates: those, without demos, with labels, and bootstrapped.
SEARCH = {"num_candidate_programs": 7, "max_bootstrapped_demos": 1, "max_labeled_demos": 1, "num_threads": 50}


def run(context: Context) -> list[Figure]:
    with context.model() as url:
        return [*evaluated(context, url), *loaded(context), *run_again(context, url), *cancelled(context, url),
                *overhead(context, url)]  # fmt: skip


def rows(count: int) -> Iterator[dict[str, str]]:
    return ({"question": f"question {number}", "answer": "?"} for number in range(count))


def evaluated(context: Context, url: str) -> list[Figure]:
    count = context.size(5_000, 1_000)
    with context.deployment() as client:
        client.deploy(program(url))
        dataset = client.dataset("rows", rows(count), inputs=["question"])
        with context.worker(client, DSPEX_WORKER_CONCURRENCY=500):
            warm_up(client, at_once=200)
            contenders: dict[str, Callable[[], float]] = {
                "DSPex": lambda: rate(count, lambda: client.evaluate("noop", dataset, metric="exact").wait()),
                BATCH: lambda: rate(count, lambda: drain(client, count)),
                DEFAULT: partial(by_dspy, context, url, context.size(400, 100), 0),
                MANY: partial(by_dspy, context, url, count, 500),
            }
            found = alternate(contenders, context.repeats, context.told)
    goals = {BATCH: at_least(0.8), DEFAULT: at_least(3), MANY: at_least(0.9)}
    return [
        *(Figure(RATE, name, "/s", values) for name, values in found.items()),
        *(ratio(f"{RATE}, to {name}", found["DSPex"], found[name], goal) for name, goal in goals.items()),
    ]


def rate(count: int, work: Callable[[], object]) -> float:
    return count / seconds(work)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def drain(client: Client, count: int) -> None:
    batch = client.submit_many("noop", ({"question": row["question"]} for row in rows(count)), priority=7)
    for _ in batch.as_completed():
        pass


def by_dspy(context: Context, url: str, count: int, threads: int) -> float:
    command = [sys.executable, "-m", "tests.performance.bench.dspy_evaluate", f"{url}/200/v1", str(count), str(threads)]
    found: dict[str, float] = context.ask(command, {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"})
    return count / found["seconds"]


def loaded(context: Context) -> list[Figure]:
    """The time and the memory that a large dataset takes to be stored."""
    count = context.size(100_000, 20_000)
    taken, grown = [], []
    for _ in range(context.repeats):
        with context.deployment() as client:
            client.dataset("warm_up", wide_rows(1_000), inputs=["question"])
            before = peak_megabytes(afresh=True)
            taken.append(seconds(partial(client.dataset, "rows", wide_rows(count), inputs=["question"])))
            grown.append(peak_megabytes() - before)
            context.told(f"{count:,} rows of {ROW_BYTES} bytes in {taken[-1]:.1f} s, {grown[-1]:.0f} MB more")
    note = f"{count:,} rows of {ROW_BYTES} bytes"
    return [
        Figure("loading a dataset", "DSPex", "s", taken, at_most(20), note),
        Figure("memory of loading a dataset", "DSPex", "MB", grown, at_most(200), note),
    ]


def peak_megabytes(*, afresh: bool = False) -> float:
    """The most memory that this process has held; ``afresh``: from now on."""
    if afresh:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def wide_rows(count: int) -> Iterator[dict[str, str]]:
    return ({"question": f"{number} ".ljust(ROW_BYTES, "x"), "answer": "?"} for number in range(count))


def run_again(context: Context, url: str) -> list[Figure]:
    """The time of a job whose rollouts are all executions that are over."""
    taken: list[float] = []
    with context.deployment() as client:
        client.deploy(program(url, 0))
        client.dataset("rows", rows(context.size(ROWS_OF_SEARCH, 40)), inputs=["question"])
        settings = {"DSPEX_PROGRAM_PACKAGES": "tests.optimizer_metrics", "OPENAI_API_KEY": "none"}
        with context.worker(client, **settings):
            job = client.optimize(
                "noop", trainset="rows", metric="tests.optimizer_metrics:graded", optimizer="bootstrap_random_search",
                options=SEARCH,
            )  # fmt: skip
            job.result(timeout=600)
            count = job.progress.executions
            for _ in range(context.repeats):
                taken.append(seconds(lambda: begin_again(client, job).result(timeout=600)))
                context.told(f"{count:,} rollouts run again in {taken[-1]:.1f} s")
            assert job.progress.executions == count, "no rollout was executed again"
    return [Figure(AGAIN, "DSPex", "s", taken, at_most(20), f"{count:,} rollouts")]


def begin_again(client: Client, job: dspex.Optimization) -> Execution:
    """The same job once more, as another attempt would run it."""
    row = client._session.row(job.id)
    again = client._submitter.submit(
        row["program"], job.execution.inputs, version=row["version"], purpose=row["purpose"], idempotency_key=None,
        connection=None, stream=False,
    )  # fmt: skip
    return Execution(client._session, again)


def cancelled(context: Context, url: str) -> list[Figure]:
    """The time until no execution of a job is queued any more; no worker is there to begin one."""
    taken: list[float] = []
    with context.deployment() as client:
        client.deploy(program(url, 0))
        client.dataset("rows", rows(1), inputs=["question"])
        for _ in range(context.repeats):
            job = client.optimize("noop", trainset="rows", metric="exact", optimizer="labeled")
            for row in rows(500):
                client._submitter.submit(
                    "noop", {"question": row["question"]}, purpose={"job": job._job}, idempotency_key=None,
                    connection=None, stream=False,
                )  # fmt: skip
            taken.append(seconds(job.cancel))
            context.told(f"500 executions cancelled in {taken[-1]:.2f} s")
            assert not client.list(program="noop", status="queued")
    return [Figure(CANCEL, "DSPex", "s", taken, at_most(5))]


def overhead(context: Context, url: str) -> list[Figure]:
    """How much longer a rollout takes on a worker than here, where half of the proposed instructions are accepted."""
    calls = context.size(600, 150)
    found: list[float] = []
    with context.deployment() as client:
        deployed = program(url, 0)
        client.deploy(deployed)
        with context.worker(client):
            warm_up(client)
            for _ in range(context.repeats):
                here = gepa_seconds(build_module(deployed), f"{url}/0/v1", calls)
                there = gepa_seconds(dspex.remote("noop", client), f"{url}/0/v1", calls)
                found.append((there - here) / calls * 1000)
                context.told(f"{calls} rollouts: here {here:.1f} s, on the worker {there:.1f} s")
    return [Figure(OVERHEAD, "DSPex", "ms a rollout", found, at_most(3))]


def gepa_seconds(student: Any, url: str, calls: int) -> float:
    examples = [dspy.Example(**row).with_inputs("question") for row in rows(30)]
    proposals = DummyLM(
        [{"new_instruction": f"Answer well, number {number}."} for number in range(calls)], adapter=dspy.JSONAdapter()
    )
    chance = random.Random(0)
    with dspy.context(lm=lm_of(url)):
        optimizer = dspy.GEPA(
            metric=lambda *_: chance.random(), max_metric_calls=calls, reflection_lm=proposals, num_threads=8, seed=0
        )
        return seconds(lambda: optimizer.compile(student, trainset=examples))
