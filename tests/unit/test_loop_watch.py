"""A blocked loop is named: whose code, where, for how long; and ended when it lasts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest
import uvloop

from tests.waiting import wait_for
from workers.attempt.current import CURRENT, Current, new_task
from workers.process.loop_watch import INTERVAL_SECONDS, LoopWatch

BUSY = Current(UUID(int=7), "slow_retrieval")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = uvloop.new_event_loop()  # as in a worker: asyncio's own loses the names of tasks in Python 3.13.0
    made.set_task_factory(new_task)
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


class Blockade:
    """A task, made by the task of an execution, that blocks the loop until it is released."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.begun, self.release = threading.Event(), threading.Event()
        self._done = asyncio.run_coroutine_threadsafe(self._attempt(), loop)
        assert self.begun.wait(60)

    def end(self) -> None:
        self.release.set()
        self._done.result(60)

    async def _attempt(self) -> None:
        CURRENT.set(BUSY)
        await asyncio.gather(self._search("a secret query"))

    async def _search(self, query: str) -> None:
        self.begun.set()
        assert self.release.wait(60)


def test_it_is_named_and_reported_each_time_its_length_has_doubled(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    verdicts: list[str] = []
    watch = LoopWatch(loop, give_up_seconds=8, on_stuck=lambda: verdicts.append("stuck"))
    with caplog.at_level(logging.WARNING, "dspex.workers"):
        wait_for(watch._turned.is_set, "the loop to turn")
        watch.run_once()
        assert watch.trouble is None

        blockade = Blockade(loop)
        wait_for(lambda: watch.run_once() or watch.trouble, "the blockade to be seen")
        assert watch.trouble is not None
        assert f"blocked for 1 s by {BUSY}, in " in watch.trouble
        assert f"test_loop_watch.py:{Blockade._search.__code__.co_firstlineno + 2} Blockade._search" in watch.trouble
        assert "secret" not in watch.trouble
        for _ in range(int(3 / INTERVAL_SECONDS)):
            watch.run_once()
        assert [record.message.split(" by ")[0] for record in caplog.records] == [
            f"the loop is blocked for {seconds} s" for seconds in (1, 2, 4)
        ]
        assert verdicts == []

        blockade.end()
        wait_for(watch._turned.is_set, "the loop to turn")
        watch.run_once()
        assert watch.trouble is None
        assert "turns again" in caplog.records[-1].message


def test_one_that_lasts_ends_the_worker(loop: asyncio.AbstractEventLoop) -> None:
    verdicts: list[str] = []
    watch = LoopWatch(loop, give_up_seconds=2, on_stuck=lambda: verdicts.append("stuck"))
    wait_for(watch._turned.is_set, "the loop to turn")
    watch.run_once()
    blockade = Blockade(loop)
    for _ in range(int(2 / INTERVAL_SECONDS) - 1):
        watch.run_once()
    assert verdicts == []
    watch.run_once()
    watch.run_once()
    assert verdicts == ["stuck"]
    blockade.end()
