"""A run's model calls are made on the worker's loop, wherever its code runs: in a thread, or on a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

__all__ = ["BlocksLoop", "RunLoop", "running_loop"]

T = TypeVar("T")
Ask = Callable[[], Coroutine[Any, Any, T]]


class BlocksLoop(BaseException):
    """The program makes a synchronous call on the worker's loop, which would wait for itself: it needs a thread.

    No Exception, so that a program which catches those does not catch this.
    """


class RunLoop:
    """The loop of one run, until the run is over: a thread may outlive it, after a deadline or a cancel, and then its
    calls are not made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked: set[Future[Any]] = set()
        self._under_way = 0
        self._ended = False
        self._idle = asyncio.Event()

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on it."""
        return running_loop() is self._loop

    def refuse_to_block(self) -> None:
        """Raises :class:`BlocksLoop` on the loop's own thread."""
        if self.is_here:
            raise BlocksLoop

    def call(self, ask: Ask[T]) -> T:
        """The result, for a thread. Raises BlocksLoop, and asyncio's CancelledError when the run is over."""
        self.refuse_to_block()
        asked = self._handed_over(ask)
        try:
            return asked.result()
        except CancelledError:  # an Exception, which DSPy would take for the model's failure; asyncio's is none
            raise asyncio.CancelledError from None
        finally:
            self._asked.discard(asked)

    async def acall(self, ask: Ask[T]) -> T:
        """The result, for a coroutine on any loop."""
        if self.is_here:
            return await self._while_it_lasts(ask)
        asked = self._handed_over(ask)
        try:
            return await asyncio.wrap_future(asked)
        finally:
            self._asked.discard(asked)

    async def drain(self) -> None:
        """Make no new call, and wait for those under way. Their answers are in the journal then."""
        self._ended = True
        if self._under_way:
            await self._idle.wait()

    def end(self) -> None:
        """The run is over: cancel the calls of threads and other loops that are under way, and refuse new ones."""
        self._ended = True
        for asked in tuple(self._asked):
            asked.cancel()

    def _handed_over(self, ask: Ask[T]) -> Future[T]:
        asked = asyncio.run_coroutine_threadsafe(self._while_it_lasts(ask), self._loop)
        self._asked.add(asked)
        return asked

    async def _while_it_lasts(self, ask: Ask[T]) -> T:
        if self._ended:
            raise asyncio.CancelledError
        self._under_way += 1
        try:
            return await ask()
        finally:
            self._under_way -= 1
            if self._ended and not self._under_way:
                self._idle.set()


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
