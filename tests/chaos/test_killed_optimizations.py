"""Five kills at random moments of an optimisation: it ends with the same version, and pays for nothing twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

import dspex
from dspex.client.client import Client
from tests.integration.test_optimizations import ALLOWED, GEPA, deploy, optimize
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for

__all__ = ["model_server"]

pytestmark = pytest.mark.chaos

KILLS = 5
ROWS = [{"question": f"{n} and {n} is?", "answer": str(2 * n)} for n in range(16)]
MIPRO = {"auto": None, "num_candidates": 4, "num_trials": 8, "minibatch": False, "num_threads": 4}
OPTIONS: dict[str, dict[str, Any]] = {"gepa": {**GEPA, "max_metric_calls": 160}, "mipro": MIPRO}


def has_answered(server: ModelServer, least: int) -> bool:
    return bool(server.calls()["answered"] >= least)


def is_over(job: dspex.Optimization, worker: WorkerProcess) -> bool:
    return job.execution.refresh().status.is_final or worker.process.poll() is not None


def test_a_poisoned_rollout_is_a_failure_of_its_example(
    client: Client, start_worker: Callable[..., WorkerProcess], model_server: ModelServer
) -> None:
    """A rollout that kills its worker each time is given up, and the job on the same worker goes on."""
    environment = {**ALLOWED, "DSPEX_LEASE_SECONDS": 1}
    program = replace(deploy(client, model_server, "sums"), module="tests.optimizer_metrics:deadly")
    client.deploy(program)
    client.dataset("sums", ROWS[:8], inputs=["question"])
    job = optimize(client, optimizer="bootstrap", options={"max_bootstrapped_demos": 16})
    deaths = 0
    while not job.execution.refresh().status.is_final:
        worker = start_worker(**environment)
        wait_for(partial(is_over, job, worker), "the job or its worker to end")
        deaths += worker.process.poll() is not None
    assert job.result(timeout=0).ended == "complete"
    (poisoned,) = client.list(program="sums", status="failed")
    assert poisoned.error is not None
    assert (poisoned.error.code, poisoned.attempts) == ("poisoned", deaths)
    assert job.progress.failed == 1


@pytest.mark.parametrize("optimizer", OPTIONS)
def test_five_kills_change_nothing(
    optimizer: str, client: Client, start_worker: Callable[..., WorkerProcess], model_server: ModelServer
) -> None:
    environment = {**ALLOWED, "DSPEX_LEASE_SECONDS": 3}
    deploy(client, model_server, "sums")
    client.dataset("sums", ROWS, inputs=["question"])
    worker = start_worker(**environment)
    undisturbed = optimize(client, optimizer=optimizer, options=OPTIONS[optimizer]).result(timeout=120)
    asked = model_server.calls()["by_hash"]
    model_server.forget()
    model_server.script(default=Step(delay_ms=20))
    seed = random.randrange(2**32)
    moments = sorted(random.Random(seed).sample(range(1, sum(asked.values())), KILLS))
    print(f"{optimizer}: seed {seed}; {sum(asked.values())} calls undisturbed; killed after {moments}")

    job = optimize(client, optimizer=optimizer, options=OPTIONS[optimizer])
    in_flight = 0
    for moment in moments:
        wait_for(partial(has_answered, model_server, moment), f"{moment} calls")
        worker.kill()
        in_flight += OPTIONS[optimizer]["num_threads"]
        worker = start_worker(**environment)
    result = job.result(timeout=120)
    again = model_server.calls()["by_hash"]
    repeated = {each: again[each] - asked[each] for each in asked if again[each] != asked[each]}
    print(f"{optimizer}: {sum(again.values())} calls; repeated {sum(repeated.values())}; {result}")
    assert (result.version, result.score, result.ended) == (undisturbed.version, undisturbed.score, "complete")
    assert again.keys() == asked.keys()
    assert all(count > 0 for count in repeated.values())
    assert sum(repeated.values()) <= in_flight
    # It may also have been handed back, for a rollout that was lost twice to run alone.
    assert job.execution.audit_trail.kinds.count("lease_expired") <= KILLS
    assert job.execution.audit_trail.verify()
