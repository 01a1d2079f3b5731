"""Synchronous code runs in threads of its own, and what outlives its execution is known."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
import uvloop

from workers.attempt.current import CURRENT, Current, new_task
from workers.attempt.supervision import raised_by
from workers.attempt.sync_threads import SyncThreads, install, run_apart, run_sync

SOMEBODY = Current(UUID(int=7), "triage")


@pytest_asyncio.fixture
async def threads() -> AsyncIterator[SyncThreads]:
    made = SyncThreads(2)
    install(made)
    yield made
    install(None)
    made.close()


class Blocker:
    """Blocks its thread until it is released."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def block(self) -> str:
        self.begun.set()
        assert self.release.wait(60)
        return "released"

    async def in_a_thread(self) -> asyncio.Task[str]:
        task = asyncio.create_task(run_sync(self.block))
        assert await asyncio.to_thread(self.begun.wait, 60)
        return task


async def test_arguments_results_errors_and_context_go_through(threads: SyncThreads) -> None:
    def call(number: int, *, name: str) -> tuple[int, str, Current | None]:
        return number, name, CURRENT.get()

    def fail() -> None:
        raise ValueError("no")

    CURRENT.set(SOMEBODY)
    assert await run_sync(call, 1, name="a") == (1, "a", SOMEBODY)
    with pytest.raises(ValueError, match="no"):
        await run_sync(fail)


@pytest.mark.parametrize("what", [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("run", [run_sync, run_apart])
async def test_what_a_coroutine_cannot_raise_is_an_ordinary_error(
    threads: SyncThreads, run: Callable[..., Any], what: type[BaseException]
) -> None:
    def quit() -> None:
        raise what

    with pytest.raises(RuntimeError, match=what.__name__) as raised:
        await run(quit)
    assert _functions(raised_by(raised.value))[-1] == "quit"
    assert await run(lambda: "works") == "works"


async def test_an_error_has_the_traceback_of_the_code(threads: SyncThreads) -> None:
    def late() -> None:
        raise TimeoutError("no")

    with pytest.raises(TimeoutError, match="no") as raised:
        await run_sync(late)
    assert _functions(raised.value)[-1] == "late"


def _functions(error: BaseException) -> list[str]:
    """The functions of its traceback."""
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


async def test_calls_beyond_the_threads_wait_and_the_loops_own_threads_are_free(threads: SyncThreads) -> None:
    first, second, third = Blocker(), Blocker(), Blocker()
    blocked = [await first.in_a_thread(), await second.in_a_thread()]
    late = asyncio.create_task(run_sync(third.block))
    await asyncio.sleep(0)  # it has asked for a thread
    assert await asyncio.to_thread(lambda: "free") == "free"
    assert (threads.busy, threads.waiting) == (2, 1)
    for blocker in (first, second, third):
        blocker.release.set()
    assert await asyncio.gather(*blocked, late) == ["released"] * 3


async def test_a_call_that_outlives_its_execution_is_counted_and_named(
    threads: SyncThreads, caplog: pytest.LogCaptureFixture
) -> None:
    CURRENT.set(SOMEBODY)
    blockers = [Blocker(), Blocker()]
    for task in [await blocker.in_a_thread() for blocker in blockers]:
        assert not threads.exhausted
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert threads.exhausted
    assert len(threads.strays) == 2
    assert f"Blocker.block, called by {SOMEBODY}" in threads.strays[0]
    assert "(2 of 2 are)" in caplog.text

    never = Blocker()
    waits = asyncio.create_task(run_sync(never.block))
    await asyncio.sleep(0)
    waits.cancel()  # it was never called: no stray
    with pytest.raises(asyncio.CancelledError):
        await waits
    with caplog.at_level(logging.WARNING, "dspex.workers"):
        for blocker in blockers:
            blocker.release.set()
        assert await run_sync(lambda: "works again") == "works again"
    assert not never.begun.is_set()
    assert not threads.exhausted


def test_what_an_attempt_makes_is_named_for_it() -> None:
    async def attempt() -> None:
        asyncio.get_running_loop().set_task_factory(new_task)
        CURRENT.set(SOMEBODY)
        unnamed, named = asyncio.ensure_future(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(0), name="mine")
        assert (unnamed.get_name(), named.get_name()) == (str(SOMEBODY), "mine")
        await asyncio.gather(unnamed, named)

    uvloop.run(attempt())  # the loop of a worker


def test_a_stray_does_not_keep_its_process_alive() -> None:
    code = (
        "import asyncio, threading; from workers.attempt.sync_threads import SyncThreads\n"
        "async def main():\n"
        "    task = asyncio.create_task(SyncThreads(1).run(threading.Event().wait))\n"
        "    await asyncio.sleep(0.1)\n"
        "    task.cancel()\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
