"""Five kills at random moments of an optimisation: it ends with the same version, and pays for nothing twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

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


@pytest.mark.parametrize("optimizer", OPTIONS)
def test_five_kills_change_nothing(
    optimizer: str, client: Client, start_worker: Callable[..., WorkerProcess], model_server: ModelServer
) -> None:
    environment = {**ALLOWED, "DSPEX_LEASE_SECONDS": 1}
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
        wait_for(partial(has_answered, model_server, moment), f"{moment} calls", timeout=120)
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
    assert job.execution.refresh().attempts <= KILLS + 1
    assert job.execution.audit_trail.verify()
