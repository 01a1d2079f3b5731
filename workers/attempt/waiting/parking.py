"""Leaving a program: the calls of an attempt that wait for something outside, and the moment at which it is parked.

A call that has to wait is registered, and does not return. Once the program is idle, all of its waiting calls end with
asyncio's CancelledError, in tasks and in threads: no ``except Exception`` catches it, and a program that catches even
this one is ended as after its deadline. What it has done so far is in the journal.

Idle: no call and no tool is under way, and nothing changed for a moment. So calls that a program makes at once are all
registered before it is left. A thread that computes between two calls is not waited for: its next call is refused, and
made when the program runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from dspex.store.lifecycle.executions import Submission
from dspex.store.lifecycle.parked import ParkedCall, WaitingFor

__all__ = ["Child", "Parking"]

#: The program is idle when nothing changed at so many looks, that far apart. Between two looks the loop runs every
#: task that is ready.
LOOKS, LOOK_SECONDS = 3, 0.01
#: A program that goes on after it was left for so long is ended.
LEAVING_SECONDS = 1.0
#: What an execution that waits for several things shows.
_ORDER: tuple[WaitingFor, ...] = ("approval", "child", "batch")


@dataclass(frozen=True, slots=True)
class Child:
    """A child execution to submit before its parent is parked; ``hashed`` is the hash of what is submitted."""

    submission: Submission
    hashed: bytes


class Parking:
    """The waiting calls of one attempt. All methods belong to the loop's thread.

    ``end`` ends a program that was left and goes on nevertheless. ``calls`` are what the execution waits for once
    ``is_leaving``.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self.is_leaving = False
        self.calls: list[ParkedCall] = []
        self.children: list[Child] = []
        self._end = end
        self._waiting: set[asyncio.Future[None]] = set()
        self._under_way = 0
        self._changes = 0
        self._look: asyncio.TimerHandle | None = None

    @property
    def waiting_for(self) -> WaitingFor:
        """What the calls wait for."""
        kinds = {call.kind for call in self.calls}
        return next(kind for kind in _ORDER if kind in kinds)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Around a call or a tool that ends by itself: the program is not left meanwhile. Raises CancelledError when it
        was left already."""
        self.refuse()
        self._under_way += 1
        self._note()
        try:
            yield
        finally:
            self._under_way -= 1
            self._note()

    async def wait(self, call: ParkedCall, child: Child | None = None) -> NoReturn:
        """Wait for the answer to this call, which comes to a later attempt. Raises CancelledError."""
        self.refuse()
        self.calls.append(call)
        if child is not None:
            self.children.append(child)
        await self._until_left()

    async def leave(self) -> NoReturn:
        """Have the program left, which then waits for nothing: a limit refuses a call, and a later attempt makes it.
        Raises CancelledError."""
        self.refuse()
        await self._until_left()

    async def _until_left(self) -> NoReturn:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        self._note()
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)
        raise AssertionError("a waiting call is only ever cancelled")

    def refuse(self) -> None:
        """Raises CancelledError when the program was left."""
        if self.is_leaving:
            raise asyncio.CancelledError

    def withdraw(self) -> None:
        """The program begins again: forget the calls that wait, and end them."""
        self.calls.clear()
        self.children.clear()
        self._cancel_all()

    def _note(self) -> None:
        self._changes += 1
        if self._waiting and not self._under_way and self._look is None and not self.is_leaving:
            self._look_again(0)

    def _look_again(self, quiet: int) -> None:
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(LOOK_SECONDS, self._look_now, self._changes, quiet)

    def _look_now(self, changes: int, quiet: int) -> None:
        self._look = None
        if self._under_way or not self._waiting or self.is_leaving:
            return
        quiet = quiet + 1 if changes == self._changes else 0
        if quiet < LOOKS:
            self._look_again(quiet)
            return
        self.is_leaving = True
        self._cancel_all()
        asyncio.get_running_loop().call_later(LEAVING_SECONDS, self._end)

    def _cancel_all(self) -> None:
        for waiting in tuple(self._waiting):
            waiting.cancel()
