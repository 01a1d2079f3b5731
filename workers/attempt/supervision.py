"""Supervision: a coroutine that can be told to end, and is not waited for, for ever, when it does not.

``await task`` under a timeout waits for as long as the task ignores its cancellation. Here the wait ends, the task is
reported and left to itself, and what it still does finds its attempt over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Generic, TypeVar

__all__ = ["Ending", "Supervised"]

T = TypeVar("T")

#: What a cancelled coroutine gets to clean up; less than the reaper gives the worker (workers/process/pump.py).
ENDING_SECONDS = 3.0

log = logging.getLogger("dspex.workers")
#: Tasks that ignore their cancellation: kept, because asyncio itself holds them weakly.
_strays: set[asyncio.Task[Any]] = set()


class Ending(Enum):
    """Why a coroutine was ended."""

    DEADLINE = "its deadline passed"
    CANCELLED = "somebody cancelled it"
    HANDED_BACK = "its worker stops"
    LEASE_LOST = "its worker lost the lease"


class Supervised(Generic[T]):
    """Runs ``work`` as a task of its own from now on; see :meth:`outcome`."""

    def __init__(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> None:
        self._task = asyncio.create_task(_contained(work), name=name)
        # What it ends for: None when the coroutine is over by itself.
        self._told: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._task.add_done_callback(lambda _: self._tell(None))

    def end(self, why: Ending) -> None:
        """Have the coroutine cancelled; only the first reason counts."""
        self._tell(why)

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._told.done() and not self._told.cancelled() and self._told.result() is not None

    async def outcome(self, timeout_seconds: float) -> T | Ending:
        """What the coroutine returned, or why it was ended. Raises what it raised."""
        timer = asyncio.get_running_loop().call_later(timeout_seconds, self._tell, Ending.DEADLINE)
        try:
            if self._told.done():
                await asyncio.sleep(0)  # the coroutine begins in any case: one that never does is not closed either
            why = await self._told
            if why is None or self._task.done():
                return self._result()
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=ENDING_SECONDS)
            # It may have finished all the same, before the cancellation reached it: then that is what happened.
            finished = self._task.done() and not self._task.cancelled() and self._task.exception() is None
            return self._task.result() if finished else why
        finally:
            timer.cancel()
            self._leave()

    def _tell(self, why: Ending | None) -> None:
        if not self._told.done():
            self._told.set_result(why)

    def _result(self) -> T:
        if self._task.cancelled():  # by itself: nobody else did
            raise RuntimeError("the program cancelled its own task")
        return self._task.result()

    def _leave(self) -> None:
        if self._task.done():
            if not self._task.cancelled():
                self._task.exception()  # looked at, so that asyncio does not report it as forgotten
            return
        self._task.cancel()
        _strays.add(self._task)
        self._task.add_done_callback(_forget)
        log.error("%s did not end within %g s of being cancelled: it is left to itself", self._task.get_name(),
                  ENDING_SECONDS)  # fmt: skip


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns. A program that leaves the interpreter fails, and does not take the loop with it."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the program raised {type(error).__name__}") from error


def _forget(task: asyncio.Task[Any]) -> None:
    _strays.discard(task)
    if not task.cancelled():
        task.exception()
