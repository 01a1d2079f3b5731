"""Services start in the order of their list, stop in the opposite one, and each stops whatever the others do."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from dspex.errors import BackendUnavailable
from workers.process.loop_thread import LoopThread, OnLoop
from workers.process.services import FunctionService, Service, start_all, stop_all


def test_they_stop_in_the_opposite_order_also_when_one_cannot_reach_its_backend(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []

    def release() -> None:
        raise BackendUnavailable("Postgres is out of reach")

    services = [
        FunctionService(partial(calls.append, "start a"), partial(calls.append, "stop a")),
        FunctionService(stop=release),
        FunctionService(partial(calls.append, "start c"), partial(calls.append, "stop c")),
    ]
    start_all(services)
    stop_all(services)
    assert calls == ["start a", "start c", "stop c", "stop a"]
    assert "out of reach" in caplog.text


def test_a_service_that_fails_to_start_keeps_the_next_from_starting() -> None:
    calls: list[str] = []

    def fail() -> None:
        raise BackendUnavailable("Postgres is out of reach")

    with pytest.raises(BackendUnavailable):
        start_all([FunctionService(fail), FunctionService(partial(calls.append, "start b"))])
    assert calls == []


def test_services_of_the_loop_start_and_close_on_its_thread_and_a_tasks_exit_leaves_it_running() -> None:
    loop, threads = LoopThread(), list[str]()

    def note() -> None:
        threads.append(threading.current_thread().name)

    async def close() -> None:
        note()

    async def exits() -> None:
        raise SystemExit

    services: list[Service] = [loop, OnLoop(loop, note, close), OnLoop(loop)]
    start_all(services)
    loop.call_soon(lambda: asyncio.ensure_future(exits()))
    stop_all(services)
    assert threads == ["dspex-loop", "dspex-loop"]
    loop.call_soon(note)  # it is closed
    assert len(threads) == 2
