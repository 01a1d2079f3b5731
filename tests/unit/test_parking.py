"""Programs are left once they are idle, with all of their calls, whatever they catch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dspex.store.lifecycle.parked import ParkedCall
from workers.adapters.dspy.run_loop import RunLoop
from workers.attempt import supervision
from workers.attempt.supervision import Ending, Supervised
from workers.attempt.waiting import parking
from workers.attempt.waiting.parking import Parking

pytestmark = pytest.mark.asyncio


def call(number: int = 0) -> ParkedCall:
    return ParkedCall(bytes([number]) * 32, 0, "batch", "m", target="{}", request="{}")


class Left:
    """A program under supervision, and its parking."""

    def __init__(self, program: Callable[[Parking], Awaitable[Any]]) -> None:
        self.parking = Parking(lambda: self.work.end(Ending.PARKED))

        async def run() -> Any:
            return await program(self.parking)

        self.work: Supervised[Any] = Supervised(run(), name="program")

    async def outcome(self) -> Any:
        with contextlib.suppress(RuntimeError):  # it was cancelled
            return await self.work.outcome(30)
        return None


async def left(program: Callable[[Parking], Awaitable[Any]]) -> Parking:
    """Run a program until it is left."""
    run = Left(program)
    await run.outcome()
    assert run.parking.is_leaving
    return run.parking


async def test_calls_made_at_once_are_all_registered() -> None:
    async def program(parking: Parking) -> None:
        async def one(number: int) -> None:
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await parking.wait(call(number))

        await asyncio.gather(*(one(number) for number in range(100)))

    assert len((await left(program)).calls) == 100


async def test_it_is_not_left_while_a_call_or_a_tool_is_under_way() -> None:
    released = asyncio.Event()
    begun = asyncio.Event()

    async def program(parking: Parking) -> None:
        async def tool() -> None:
            with parking.under_way():
                begun.set()
                await released.wait()
            await parking.wait(call(1))

        await asyncio.gather(parking.wait(call(0)), tool())

    run = Left(program)
    await begun.wait()
    await asyncio.sleep(parking.LOOKS * parking.LOOK_SECONDS * 3)
    assert not run.parking.is_leaving
    released.set()
    await run.outcome()
    assert [each.request_hash[0] for each in run.parking.calls] == [0, 1]


async def test_a_program_that_catches_everything_is_left_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "LEAVING_SECONDS", 0.05)
    monkeypatch.setattr(supervision, "ENDING_SECONDS", 0.05)

    async def stubborn(parking: Parking) -> str:
        for _ in range(3):
            try:
                await parking.wait(call())
            except BaseException:
                continue
        return "an answer that nobody may use"

    run = Left(stubborn)
    assert await run.outcome() == "an answer that nobody may use"
    assert run.parking.is_leaving
    assert len(run.parking.calls) == 1, "calls of a program that was left are refused"

    enough = False

    async def endless(parking: Parking) -> None:
        while not enough:
            try:
                await parking.wait(call())
            except BaseException:
                await asyncio.sleep(0.001)

    ended = Left(endless)
    assert await ended.work.outcome(30) is Ending.PARKED
    assert ended.parking.is_leaving
    enough = True


async def test_threads_are_left_with_what_no_except_exception_catches() -> None:
    caught: list[str] = []

    async def program(parking: Parking) -> None:
        loop = RunLoop()

        def one(number: int) -> None:
            try:
                loop.call(lambda: parking.wait(call(number)))
            except Exception as error:
                caught.append(type(error).__name__)

        def run() -> None:
            with ThreadPoolExecutor(8) as threads:
                for made in [threads.submit(one, number) for number in range(8)]:
                    made.result()

        await asyncio.to_thread(run)

    assert len((await left(program)).calls) == 8
    assert caught == []


async def test_a_program_that_begins_again_registers_anew() -> None:
    async def program(parking: Parking) -> None:
        earlier = asyncio.create_task(parking.wait(call(1)))
        await asyncio.sleep(0)
        parking.withdraw()
        with contextlib.suppress(asyncio.CancelledError):
            await earlier
        await parking.wait(call(2))

    assert [each.request_hash[0] for each in (await left(program)).calls] == [2]


async def test_a_program_that_ends_by_itself_is_not_left() -> None:
    async def program(parking: Parking) -> str:
        waiting = asyncio.create_task(parking.wait(call()))
        await asyncio.sleep(0)
        waiting.cancel()
        return "done"

    run = Left(program)
    assert await run.outcome() == "done"
    await asyncio.sleep(parking.LOOKS * parking.LOOK_SECONDS * 2)
    assert not run.parking.is_leaving


async def test_what_is_waited_for_is_named_by_the_most_important() -> None:
    made = Parking(lambda: None)
    made.calls = [call(), ParkedCall(b"", 0, "approval", "tool", request="{}"), call()]
    assert made.waiting_for == "approval"
