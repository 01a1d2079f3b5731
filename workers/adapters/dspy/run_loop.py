"""A run's model calls are made on the worker's loop, wherever its code runs: in a thread, or on a loop of its own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

__all__ = ["BlocksLoop", "EndsProgram", "RunLoop", "running_loop"]

T = TypeVar("T")
Ask = Callable[[], Coroutine[Any, Any, T]]

#: A thread that has waited so long for the loop to begin with its call looks at what the loop does.
BLOCKED_SECONDS = 0.2


class BlocksLoop(BaseException):
    """The program makes a synchronous call on the worker's loop, which would wait for itself: it needs a thread.

    No Exception, so that a program which catches those does not catch this.
    """


class EndsProgram(BaseException):
    """The program must not go on, whatever it catches: its failure is known."""


class RunLoop:
    """The loop of one run, until the run is over: a thread may outlive it, after a deadline or a cancel, and then its
    calls are not made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asked: set[_Asked[Any]] = set()
        self._under_way = 0
        #: The program's own code runs on the loop, rather than in a thread.
        self.hosts_code = False
        #: That code was found to wait for a thread that waits for the loop: what it returns is void.
        self.is_blocked = False
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
            while not asked.ends_within(BLOCKED_SECONDS):
                self._refuse_to_be_waited_for(asked)
            return asked.future.result()
        except CancelledError:  # an Exception, which DSPy would take for the model's failure; asyncio's is none
            raise asyncio.CancelledError from None
        finally:
            self._asked.discard(asked)

    async def acall(self, ask: Ask[T]) -> T:
        """The result, for a coroutine on any loop."""
        if self.is_here:
            return await self._while_it_lasts(ask)
        asked = self._handed_over(ask)
        result = asyncio.wrap_future(asked.future)
        try:
            while not asked.is_begun and not (await asyncio.wait([result], timeout=BLOCKED_SECONDS))[0]:
                self._refuse_to_be_waited_for(asked)
            return await result
        finally:
            self._asked.discard(asked)

    def post(self, do: Callable[[], None]) -> None:
        """Have the loop do something that takes no time; from any thread."""
        if self.is_here:
            do()
        else:
            self._loop.call_soon_threadsafe(do)

    @property
    def is_over(self) -> bool:
        """Whether the run is over, and makes no call any more."""
        return self._ended

    async def drain(self) -> None:
        """Make no new call, and wait for those under way. Their answers are in the journal then."""
        self._ended = True
        if self._under_way:
            await self._idle.wait()

    def end(self) -> None:
        """The run is over: cancel the calls of threads and other loops that are under way, and refuse new ones."""
        self._ended = True
        for asked in tuple(self._asked):
            asked.future.cancel()

    def _handed_over(self, ask: Ask[T]) -> _Asked[T]:
        asked = _Asked(self._while_it_lasts, ask, self._loop)
        self._asked.add(asked)
        return asked

    def _refuse_to_be_waited_for(self, asked: _Asked[Any]) -> None:
        """Raises BlocksLoop if the loop has not begun with the call because it waits for a thread itself."""
        frame = sys._current_frames().get(self._thread)
        if not self.hosts_code or asked.is_begun or frame is None or frame.f_code.co_filename != threading.__file__:
            return
        self.is_blocked = True
        asked.future.cancel()
        raise BlocksLoop

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


class _Asked(Generic[T]):
    """A call handed over to the loop."""

    def __init__(
        self, perform: Callable[[Ask[T]], Coroutine[Any, Any, T]], ask: Ask[T], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.is_begun = False
        self._perform = perform
        self._ask = ask
        self.future: Future[T] = asyncio.run_coroutine_threadsafe(self._begin(), loop)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end: so long, or without limit once it has begun."""
        with suppress(CancelledError, TimeoutError):
            self.future.exception(None if self.is_begun else seconds)
        return self.future.done()

    async def _begin(self) -> T:
        self.is_begun = True
        return await self._perform(self._ask)


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
