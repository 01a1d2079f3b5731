"""When the watchdog bites and when it does not: check by check, on a real Redis and a real loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dspex.broker import QUEUE, Broker
from dspex.settings import Backends
from tests.waiting import wait_for
from workers.watchdog import CHECKS, Watchdog


@dataclass
class Slots:
    """What of the executor the watchdog looks at."""

    held: int = 0
    concurrency: int = 2


@dataclass
class Worker:
    """A watchdog of a worker that is as its fields say."""

    watchdog: Watchdog
    slots: Slots
    verdicts: list[bool]
    received: int = 0
    consuming: bool = True

    def check(self, times: int) -> list[bool]:
        """Run so many checks, each after the loop had its turn. Returns the verdicts so far."""
        for _ in range(times):
            self.watchdog.run_once()
            wait_for(self.watchdog._turned.is_set, "the loop to turn")
        return self.verdicts


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, name="dspex-loop")
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


@pytest.fixture
def worker(backends: Backends, loop: asyncio.AbstractEventLoop) -> Iterator[Worker]:
    broker, slots = Broker(backends.broker_url), Slots()
    verdicts: list[bool] = []
    made: Worker
    watchdog = Watchdog(
        broker, loop, slots, seconds=CHECKS * 10,
        received=lambda: made.received, consuming=lambda: made.consuming,
        on_stuck=verdicts.append,
    )  # fmt: skip
    made = Worker(watchdog, slots, verdicts)
    yield made
    watchdog.close()
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
def test_a_worker_that_is_deaf_is_ended(worker: Worker) -> None:
    assert worker.check(CHECKS - 1) == []
    assert worker.check(1) == [True]


@pytest.mark.usefixtures("message")
def test_one_that_hears_now_and_then_or_is_full_is_not(worker: Worker) -> None:
    worker.check(CHECKS - 1)
    worker.received += 1
    worker.check(CHECKS - 1)
    worker.slots.held = worker.slots.concurrency
    assert worker.check(3 * CHECKS) == []


@pytest.mark.usefixtures("message")
def test_one_that_is_reconnecting_is_given_a_minute_more(worker: Worker) -> None:
    worker.consuming = False
    assert worker.check(CHECKS + 5) == []
    assert worker.check(1) == [True], "with a check every ten seconds"


def test_without_redis_there_is_nothing_to_hear(worker: Worker, backends: Backends) -> None:
    worker.watchdog._redis = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    assert worker.check(3 * CHECKS) == []


def test_a_blocked_loop_is_ended_and_one_that_turns_again_is_not(
    worker: Worker, loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def block_for(checks: int) -> None:
        blocked, release = threading.Event(), threading.Event()

        def stand_in_the_way() -> None:
            blocked.set()
            release.wait(60)

        loop.call_soon_threadsafe(stand_in_the_way)
        assert blocked.wait(60)
        for _ in range(checks):
            worker.watchdog.run_once()
        release.set()
        wait_for(worker.watchdog._turned.is_set, "the loop to turn")

    for _ in range(2):
        block_for(CHECKS)
        worker.check(1)
    assert worker.verdicts == []
    block_for(CHECKS + 1)
    assert worker.verdicts == [False]
    assert "stand_in_the_way" in caplog.text
