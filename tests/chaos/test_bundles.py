"""A leader is killed before, during and after each step of a bundle: every request is answered and paid for once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import failpoints
from tests.batch_api import BatchScript
from tests.chaos.test_failpoints import dies
from tests.model_server import ModelServer, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for

__all__ = ["model_server"]

SETTINGS = {
    "DSPEX_BATCH_FILL_SECONDS": "0.2",
    "DSPEX_BATCH_POLL_SECONDS": "0.1",
    "DSPEX_BATCH_SETTLE_SECONDS": "1",
    "DSPEX_LEASE_SECONDS": "1",
}
ROWS = 250


@pytest.fixture
def program(client: Client, model_server: ModelServer) -> str:
    signature = dspex.signature(":string question -> :string answer")
    client.deploy(
        dspex.Program(
            "qa", signature, adapter="direct", model="openai/test", api_base=model_server.api_base, route="batch"
        )
    )
    return "qa"


@pytest.mark.parametrize(
    "point",
    [
        failpoints.AFTER_BUNDLE_STORED,
        failpoints.AFTER_BUNDLE_UPLOADED,
        failpoints.AFTER_BUNDLE_SENT,
        failpoints.AFTER_BUNDLE_CREATED,
        failpoints.AFTER_BUNDLE_ANSWERS,
    ],
)
def test_a_bundle_is_paid_for_once(
    client: Client, model_server: ModelServer, start_worker: Callable[..., WorkerProcess], program: str, point: str
) -> None:
    model_server.script_batches(BatchScript(looks=2))
    leader = start_worker(**SETTINGS, DSPEX_FAILPOINTS=f"{point}=kill")
    batch = client.submit_many(program, [{"question": f"number {n}"} for n in range(ROWS)])
    dies(leader.process, point)
    start_worker(**SETTINGS)
    done = list(batch.as_completed(timeout=90))
    assert {each.status for each in done} == {dspex.Status.COMPLETED}
    assert len(done) == ROWS
    seen = model_server.batches()
    assert (seen["requests"], seen["asked_twice"], seen["answered"]) == (ROWS, 0, ROWS)
    assert model_server.calls()["total"] == ROWS, "no call went the ordinary way"
    assert sum(each.metrics.lm_calls for each in done) == ROWS, "the ledger and the provider agree"
    assert client.verify_audit() == {}


#: How many workers are killed.
KILLS = 4


def test_programs_of_three_steps_survive_kill_after_kill(
    client: Client, model_server: ModelServer, start_worker: Callable[..., WorkerProcess]
) -> None:
    """The leader among them, at any moment. Every request is answered once."""
    environment = {**SETTINGS, "DSPEX_PROGRAM_PACKAGES": "tests.waiting_programs"}
    model_server.script_batches(BatchScript(looks=2))
    signature = dspex.signature(":string question -> :string answer")
    steps = dspex.Program(
        "steps", signature, module="tests.waiting_programs:Steps", model="openai/test",
        api_base=model_server.api_base, route="batch", retry=dspex.Retry(max_attempts=20),
    )  # fmt: skip
    client.deploy(steps)
    workers = [start_worker(**environment), start_worker(**environment)]
    batch = client.submit_many("steps", [{"question": f"number {n}"} for n in range(60)])

    def is_under_way(number: int) -> bool:
        return bool(model_server.batches()["answered"] > 30 * number)

    for number in range(KILLS):
        wait_for(partial(is_under_way, number), "some answers")
        workers.pop(0).signal(signal.SIGKILL)
        workers.append(start_worker(**environment))
    done = list(batch.as_completed(timeout=120))
    assert {each.status for each in done} == {dspex.Status.COMPLETED}, client.batch(batch.id).failures
    seen = model_server.batches()
    assert (len(done), seen["requests"], seen["asked_twice"]) == (60, 180, 0)
    assert sum(each.metrics.lm_calls for each in done) == 180
    assert client.verify_audit() == {}
