"""The signals that wake a waiting thread or task: each is set and waited for any number of times."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dspex.wait.blocking_driver import ThreadSignal, complete
from dspex.wait.loop_driver import LoopSignal

LONG = 60.0


def test_what_was_set_before_a_thread_waits_wakes_it_once() -> None:
    signal = ThreadSignal()
    signal.set()
    signal.set()
    complete(signal.wait(LONG))
    assert signal._sets.empty()


async def test_what_was_set_before_a_task_waits_wakes_it_once() -> None:
    signal = LoopSignal()
    signal.set()
    signal.set()
    await signal.wait(LONG)
    waiting = asyncio.create_task(signal.wait(None))
    await asyncio.sleep(0)
    assert not waiting.done()
    signal.set()
    await waiting


def test_a_thread_is_woken_by_another() -> None:
    signal, woken = ThreadSignal(), threading.Event()

    def wait() -> None:
        complete(signal.wait(None))
        woken.set()
        complete(signal.wait(LONG))

    thread = threading.Thread(target=wait)
    thread.start()
    assert not woken.is_set()
    signal.set()
    assert woken.wait(LONG)
    signal.set()
    thread.join(LONG)
    assert not thread.is_alive()


async def test_a_task_is_woken_by_another() -> None:
    signal = LoopSignal()
    waiting = asyncio.create_task(signal.wait(None))
    await asyncio.sleep(0)
    assert not waiting.done()
    signal.set()
    await waiting
    cancelled = asyncio.create_task(signal.wait(LONG))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    signal.set()
    await signal.wait(LONG)
