"""A leader is killed before, during and after each step of a bundle: every request is answered and paid for once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dspex
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.settings.failpoints import (
    AFTER_BUNDLE_ANSWERS,
    AFTER_BUNDLE_CREATED,
    AFTER_BUNDLE_INTENDED,
    AFTER_BUNDLE_SENT,
    AFTER_BUNDLE_STORED,
    AFTER_BUNDLE_UPLOADED,
    BETWEEN_BUNDLE_LINES,
)
from dspex.testing.model_batches import BatchScript
from tests.chaos.guarantees import assert_guarantees, long
from tests.chaos.test_failpoints import dies
from tests.model_server import ModelServer, model_server
from tests.processes import WorkerProcess

__all__ = ["SETTINGS", "assert_paid_once", "deploy", "model_server", "submit"]

StartWorker = Callable[..., WorkerProcess]

SETTINGS: dict[str, Any] = {
    "DSPEX_BATCH_FILL_SECONDS": "0.2",
    "DSPEX_BATCH_POLL_SECONDS": "0.1",
    "DSPEX_BATCH_SETTLE_SECONDS": "1",
    "DSPEX_LEASE_SECONDS": "1",
    "DSPEX_PROGRAM_PACKAGES": "tests.waiting_programs",
}
SIGNATURE = dspex.signature(":string question -> :string answer")
#: The model and the path of its server, by the format of the batch API.
MODELS = {"openai": ("openai/test", "/v1"), "anthropic": ("anthropic/test", ""), "gemini": ("gemini/test", "")}
#: More than are read from Postgres at a time.
ROWS = 250


def deploy(client: Client, server: ModelServer, *, format: str = "openai", **settings: Any) -> None:
    model, path = MODELS[format]
    client.deploy(
        dspex.Program(
            "qa", SIGNATURE, model=model, api_base=f"{server.url}{path}", route="batch",
            retry=dspex.Retry(max_attempts=20), **settings,
        )
    )  # fmt: skip


def submit(client: Client, rows: int) -> Batch:
    return client.submit_many("qa", [{"question": f"number {n}"} for n in range(rows)])


def assert_paid_once(client: Client, server: ModelServer, batch: Batch, requests: int) -> None:
    """All are completed, and the ledger agrees with what the provider counted."""
    done = list(batch.as_completed(timeout=240))
    assert {each.status for each in done} == {dspex.Status.COMPLETED}, client.batch(batch.id).failures
    seen = server.batches()
    assert (seen["requests"], seen["asked_twice"], seen["answered"]) == (requests, 0, requests)
    assert server.calls()["total"] == requests, "no call went the ordinary way"
    assert sum(each.metrics.lm_calls for each in done) == requests
    assert_guarantees(client, [each.id for each in done])


def cases() -> Iterator[Any]:
    """One of them in each run of the tests, all in ``make chaos``."""
    points = [
        AFTER_BUNDLE_STORED, BETWEEN_BUNDLE_LINES, AFTER_BUNDLE_UPLOADED, AFTER_BUNDLE_INTENDED, AFTER_BUNDLE_SENT,
        AFTER_BUNDLE_CREATED, AFTER_BUNDLE_ANSWERS,
    ]  # fmt: skip
    for format in MODELS:
        for point in points:
            if format == "openai" or point != AFTER_BUNDLE_UPLOADED:  # the others have no files
                is_short = (format, point) == ("openai", AFTER_BUNDLE_SENT)
                yield (format, point) if is_short else long(format, point)


@pytest.mark.parametrize(("format", "point"), list(cases()))
def test_a_bundle_is_paid_for_once(
    client: Client, model_server: ModelServer, start_worker: StartWorker, format: str, point: str
) -> None:
    model_server.script_batches(BatchScript(looks=2))
    deploy(client, model_server, format=format, adapter="direct")
    leader = start_worker(**SETTINGS, DSPEX_FAILPOINTS=f"{point}=kill")
    batch = submit(client, ROWS)
    dies(leader.process, point)
    start_worker(**SETTINGS)
    assert_paid_once(client, model_server, batch, ROWS)


#: Attempts are computed side by side, so that of many at once none ends before the next kill; nor would the upload of a
#: large bundle. A leader that dies is missed for two seconds, and finds the dead of before it a lease later.
KILLED: dict[str, Any] = {
    **SETTINGS,
    "DSPEX_LEASE_SECONDS": "2",
    "DSPEX_BATCH_FILL_SECONDS": "2",
    "DSPEX_BATCH_REQUESTS": "500",
    "DSPEX_WORKER_CONCURRENCY": "32",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("rows", "every_seconds"), [long(200, 5.0), long(2000, 5.0)])
def test_programs_of_three_steps_survive_kill_after_kill(
    client: Client, model_server: ModelServer, start_worker: StartWorker, rows: int, every_seconds: float
) -> None:
    """At any moment, every other time the leader. Every request is answered once."""
    model_server.script_batches(BatchScript(looks=2))
    deploy(client, model_server, module="tests.waiting_programs:Steps")
    workers = [start_worker(**KILLED), start_worker(**KILLED)]
    batch = submit(client, rows)
    began, kills = time.monotonic(), 0
    while (progress := batch.progress).finished < rows:
        print(f"{time.monotonic() - began:.0f} s, {kills} workers killed: {progress}")
        time.sleep(every_seconds)
        # The older of two leads, or the one that was left when the leader was killed.
        workers.pop(-(kills % 2)).signal(signal.SIGKILL)
        kills += 1
        workers.append(start_worker(**KILLED))
    assert_paid_once(client, model_server, batch, 3 * rows)
    sizes = model_server.batches()["sizes"]
    print(f"{rows} rows, {3 * rows} requests in {len(sizes)} bundles {sizes}; {kills} workers killed")
