"""Greenlets are used again and again, and each call still has its own value, error, context and cancellation."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial

import greenlet  # type: ignore[import-untyped]
import pytest
from sqlalchemy.util import await_only

from dspex.store.loop.greenlets import KEPT_MOST, in_greenlet, let_greenlets_go

NUMBER = ContextVar("NUMBER", default=-1)


@pytest.fixture(autouse=True)
def none_kept() -> Iterator[None]:
    let_greenlets_go()
    yield
    let_greenlets_go()


def own_greenlet() -> int:
    return id(greenlet.getcurrent())


def wait_and_return(number: int) -> Callable[[], int]:
    def work() -> int:
        NUMBER.set(number)
        await_only(asyncio.sleep(0))
        assert NUMBER.get() == number
        return number

    return work


async def test_one_greenlet_does_one_work_after_the_other() -> None:
    first = await in_greenlet(own_greenlet)
    assert await in_greenlet(wait_and_return(1)) == 1
    assert await in_greenlet(own_greenlet) == first


async def test_each_has_its_own_value_and_context() -> None:
    async def task(number: int) -> int:
        value = await in_greenlet(wait_and_return(number))
        assert NUMBER.get() == number
        return value

    numbers = range(KEPT_MOST + 20)
    for _ in range(2):
        assert await asyncio.gather(*map(task, numbers)) == list(numbers)
    assert NUMBER.get() == -1


async def test_an_error_is_raised_and_the_next_work_is_done() -> None:
    def fail() -> None:
        await_only(asyncio.sleep(0))
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await in_greenlet(fail)
    assert await in_greenlet(wait_and_return(2)) == 2


async def test_a_cancellation_reaches_the_work() -> None:
    async def cancelled(work: Callable[[], str]) -> asyncio.Task[str]:
        task = asyncio.create_task(in_greenlet(work))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task

    def wait() -> str:
        await_only(asyncio.Event().wait())
        return "never"

    def survive() -> str:
        try:
            return wait()
        except asyncio.CancelledError:
            return "survived"

    assert (await cancelled(wait)).cancelled()
    assert (await cancelled(survive)).result() == "survived"
    assert await in_greenlet(wait_and_return(3)) == 3


async def test_those_that_are_let_go_end() -> None:
    seen: list[weakref.ref[greenlet.greenlet]] = []
    await in_greenlet(lambda: seen.append(weakref.ref(greenlet.getcurrent())))
    assert seen[0]() is not None, "it is kept"
    let_greenlets_go()
    assert seen[0]() is None


def test_those_of_a_thread_that_ended_are_gone() -> None:
    seen: list[weakref.ref[greenlet.greenlet]] = []
    work = partial(in_greenlet, lambda: seen.append(weakref.ref(greenlet.getcurrent())))
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()
    assert seen[0]() is None
