"""When the watchdog ends a worker and when it does not: check by check, on a real Redis and a real loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dspex.publish.broker import QUEUE, Broker
from dspex.settings import Backends
from workers.attempt.sync_threads import SyncThreads
from workers.process.watchdog import CHECKS, Consumption, Watchdog
from workers.process.worker_state import WorkerState


@dataclass
class Slots:
    """The executor, as the watchdog sees it."""

    held: int = 0
    concurrency: int = 2


@dataclass
class Worker:
    """A watchdog of a worker that is as its fields say."""

    watchdog: Watchdog
    intake: WorkerState
    slots: Slots
    threads: SyncThreads
    verdicts: list[str]
    consumption: Consumption = Consumption.ON

    def check(self, times: int) -> list[str]:
        """Run so many checks. Returns the verdicts so far."""
        for _ in range(times):
            self.watchdog.run_once()
        return self.verdicts


@pytest.fixture
def worker(backends: Backends) -> Iterator[Worker]:
    broker, intake, slots, threads = Broker(backends.broker_url), WorkerState(), Slots(), SyncThreads(1)
    verdicts: list[str] = []
    made: Worker
    watchdog = Watchdog(
        broker, intake, slots, threads, lambda: made.consumption,
        seconds=CHECKS * 10, on_stuck=lambda: verdicts.append("stuck"),
    )  # fmt: skip
    made = Worker(watchdog, intake, slots, threads, verdicts)
    yield made
    threads.close()
    watchdog.stop()
    broker.close()


@pytest.fixture
def message(backends: Backends) -> Iterator[None]:
    """A message waits."""
    with redis.Redis.from_url(backends.broker_url) as connection:
        connection.lpush(QUEUE, "somebody's")
        yield


def test_an_idle_worker_with_nothing_to_do_is_left_alone(worker: Worker) -> None:
    assert worker.check(3 * CHECKS) == []


@pytest.mark.usefixtures("message")
def test_a_worker_that_receives_nothing_is_ended(worker: Worker) -> None:
    assert worker.check(CHECKS - 1) == []
    assert worker.check(1) == ["stuck"]


@pytest.mark.usefixtures("message")
def test_one_that_receives_now_and_then_or_is_full_is_not(worker: Worker) -> None:
    worker.check(CHECKS - 1)
    worker.intake.received += 1
    worker.check(CHECKS - 1)
    worker.slots.held = worker.slots.concurrency
    assert worker.check(3 * CHECKS) == []


@pytest.mark.usefixtures("message")
def test_one_that_is_reconnecting_is_given_a_minute_more(worker: Worker) -> None:
    worker.consumption = Consumption.LOST
    assert worker.check(CHECKS + 5) == []
    assert worker.check(1) == ["stuck"], "with a check every ten seconds"


def test_without_redis_there_is_nothing_to_receive(worker: Worker, backends: Backends) -> None:
    worker.watchdog._redis = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    assert worker.check(3 * CHECKS) == []


@pytest.mark.usefixtures("message")
def test_one_that_refuses_all_it_receives_is_left_alone(worker: Worker) -> None:
    for _ in range(CHECKS):
        worker.intake.refused += 1
        assert worker.check(CHECKS - 1) == []


@pytest.mark.usefixtures("message")
@pytest.mark.parametrize("consumption", [Consumption.OFF, Consumption.REFUSED])
def test_one_whose_consumer_is_stopped_or_refused_is_left_alone(worker: Worker, consumption: Consumption) -> None:
    worker.consumption = consumption
    assert worker.check(CHECKS + 10) == []


async def test_one_that_lost_all_its_threads_is_ended_and_says_to_what(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def never_ends() -> None:
        release.wait(60)

    call = asyncio.create_task(worker.threads.run(never_ends))
    while not worker.threads.busy:  # noqa: ASYNC110 - the test's own timeout ends a wait in vain
        await asyncio.sleep(0)
    assert worker.check(CHECKS) == [], "its execution waits for it"
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert worker.check(CHECKS - 1) == []
    assert worker.check(1) == ["stuck"]
    assert "never_ends" in caplog.text
    release.set()
