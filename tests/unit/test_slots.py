"""Slots: who runs next in a worker."""

from __future__ import annotations

import asyncio
from collections import Counter

from workers.attempt.slots import FairSlots


class Crowd:
    """Executions that wait for slots, and end when told."""

    def __init__(self, slots: FairSlots) -> None:
        self.running: list[str] = []
        self.begun: list[str] = []
        self._slots = slots
        self._ends: list[tuple[str, asyncio.Event]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, program: str, count: int = 1, priority: int = 5) -> None:
        self._tasks += [asyncio.create_task(self._one(program, priority)) for _ in range(count)]
        await settle()

    async def end(self, program: str, count: int = 1) -> None:
        for _ in range(count):
            entry = next(entry for entry in self._ends if entry[0] == program)
            self._ends.remove(entry)
            entry[1].set()
            await settle()

    async def _one(self, program: str, priority: int) -> None:
        slot, end = asyncio.Event(), asyncio.Event()
        self._slots.ask(program, priority, [slot.set])
        await slot.wait()
        self._ends.append((program, end))
        self.running.append(program)
        self.begun.append(program)
        await end.wait()
        self.running.remove(program)
        self._slots.release(program)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_single_one_does_not_wait_for_the_hundreds_of_another() -> None:
    crowd = Crowd(FairSlots(40))
    await crowd.join("bulk", 300)
    assert Counter(crowd.running) == {"bulk": 40}
    await crowd.join("single", 5)
    assert Counter(crowd.running) == {"bulk": 40, "single": 1}, "the reserve is for who has nothing running"
    await crowd.join("other")
    assert Counter(crowd.running)["other"] == 1
    await crowd.join("third")
    assert Counter(crowd.running) == {"bulk": 40, "single": 1, "other": 1}, "the reserve has an end"
    await crowd.end("bulk")
    assert Counter(crowd.running)["third"] == 1
    await crowd.end("bulk", 10)
    assert Counter(crowd.running) == {"bulk": 33, "single": 5, "other": 1, "third": 1}, "the fewest running first"


async def test_within_a_program_a_backlog_comes_last() -> None:
    slots, begun = FairSlots(2), list[str]()

    def ask(program: str, name: str, *, bulk: bool = False) -> None:
        slots.ask(program, 5, [lambda: begun.append(name)], bulk=bulk)

    for _ in range(4):
        ask("a", "backlog", bulk=True)
    assert begun == ["backlog"] * 2
    ask("a", "few")
    assert begun[2:] == ["few"], "in the reserve"
    ask("a", "more")
    ask("b", "other", bulk=True)
    assert begun[3:] == [], "the reserve has an end"
    for _ in range(4):
        slots.release("a")
    assert begun[3:] == ["other", "more", "backlog"]


async def test_equals_take_turns_and_the_urgent_come_first() -> None:
    crowd = Crowd(FairSlots(6))
    await crowd.join("a", 9)
    await crowd.join("b", 3)
    await crowd.join("c", 3)
    await crowd.join("a", priority=0)
    assert "".join(crowd.begun) == "aaaaaa" + "b"
    await crowd.end("a", 5)
    assert "".join(crowd.begun[7:]) == "c" + "a" + "bc", "who has nothing; the urgent; by turns"


async def test_what_a_limit_would_hold_up_waits_outside() -> None:
    throttled = {"limited"}
    slots = FairSlots(4, throttled=throttled.__contains__)
    crowd = Crowd(slots)
    await crowd.join("limited", 3)
    await crowd.join("free", 3)
    assert Counter(crowd.running) == {"free": 3}
    throttled.clear()
    slots.wake()
    await settle()
    assert Counter(crowd.running) == {"free": 3, "limited": 1}


async def test_while_they_are_closed_nothing_begins() -> None:
    crowd = Crowd(slots := FairSlots(2))
    await crowd.join("a", 3)
    slots.close()
    await crowd.end("a")
    slots.resize(9)
    await crowd.join("b")
    assert crowd.running == ["a"]
    slots.open()
    await settle()
    assert Counter(crowd.running) == {"a": 2, "b": 1}


async def test_slots_can_be_more_or_fewer() -> None:
    crowd = Crowd(slots := FairSlots(2))
    await crowd.join("a", 6)
    assert len(crowd.begun) == 2
    slots.resize(3)
    await settle()
    assert len(crowd.begun) == 3
    slots.resize(1)
    await crowd.end("a", 2)
    assert len(crowd.begun) == 3
    await crowd.end("a")
    assert len(crowd.begun) == 4
