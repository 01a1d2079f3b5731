"""The batcher for the tasks of an event loop: one task carries what gathered, batch after batch.

After a shared statement the next one waits for a moment, as in :mod:`dspex.store.batching.thread_batcher`: here until
no other item comes in a few turns of the loop, and not for long on a busy one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from dspex.store.batching.gathering import Gathering, Hold, PendingItem, concerns_all, copied

__all__ = ["LoopBatcher"]

T = TypeVar("T")
R = TypeVar("R")

#: So many turns of the loop are a moment. A statement waits while another item comes in each, and for about so long.
TURNS, LONGEST_SECONDS = 3, 0.001


async def _nothing(_items: object, _results: object) -> None:
    """Nothing follows."""


class LoopBatcher(Generic[T, R]):
    """:class:`ThreadBatcher` for tasks: ``flush`` and ``then`` are coroutine functions. Belongs to one loop."""

    def __init__(
        self,
        flush: Callable[[Sequence[T], bool], Awaitable[Sequence[R]]],
        gathering: Gathering[T, R],
        *,
        then: Callable[[Sequence[T], Sequence[R]], Awaitable[None]] = _nothing,
        name: str = "batcher",
    ) -> None:
        self.name = name
        self._flush = flush
        self._then = then
        self._gathering = gathering
        self._carrying = False
        self._last_was_shared = False
        self._closed = False
        #: The loop itself keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, item: T, hold: Hold | None = None) -> asyncio.Future[R]:
        """Flush the item together with the others that wait. Await its result, which comes at the end of a ``hold``; an
        item whose result is cancelled is not sent any more."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        waiting: PendingItem[T, R] = PendingItem(item, result, hold)
        if self._gathering.is_heavy(item):
            self._start(self._aside(waiting))
        else:
            self.send(waiting)
        return result

    async def close(self) -> None:
        """Stop, and cancel the items that still wait."""
        self._closed = True
        for task in (tasks := list(self._tasks)):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        for waiting in self._gathering.take_all():
            waiting.cancel()

    def send(self, waiting: PendingItem[T, R]) -> None:
        """Have it carried after those that wait."""
        if self._closed:
            waiting.cancel()
            return
        self._gathering.add(waiting)
        if not self._carrying:
            self._carrying = True
            self._start(self._carry())

    async def deliver(self, batch: Sequence[PendingItem[T, R]], *, aside: bool = False) -> None:
        """Flush the batch and set the outcomes, unless something follows: then another task sets them."""
        items = [waiting.item for waiting in batch]
        try:
            results = await self._flush(items, aside)
        except Exception as error:
            self._fail(batch, error, aside=aside)
        else:
            if self._then is _nothing:
                give(batch, results)
            else:
                self._start(self._finish(batch, items, results))

    async def _carry(self) -> None:
        try:
            if self._last_was_shared:
                await self._await_others()
            while batch := self._gathering.take():
                self._last_was_shared = len(batch) > 1
                await self._deliver_or_cancel(batch)
        finally:
            self._carrying = False

    async def _await_others(self) -> None:
        now = asyncio.get_running_loop().time
        until, quiet, before = now() + LONGEST_SECONDS, 0, len(self._gathering)
        while quiet < TURNS and now() < until:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._gathering) == before else 0
            before = len(self._gathering)

    async def _deliver_or_cancel(self, batch: Sequence[PendingItem[T, R]], *, aside: bool = False) -> None:
        try:
            await self.deliver(batch, aside=aside)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.cancel()
            raise

    async def _aside(self, waiting: PendingItem[T, R]) -> None:
        if not waiting.outcome.done():
            await self._deliver_or_cancel([waiting], aside=True)

    async def _finish(self, batch: Sequence[PendingItem[T, R]], items: Sequence[T], results: Sequence[R]) -> None:
        try:
            await self._then(items, results)
        except Exception as error:
            for waiting in batch:
                waiting.fail(copied(error))
        else:
            give(batch, results)

    def _fail(self, batch: Sequence[PendingItem[T, R]], error: Exception, *, aside: bool) -> None:
        """Raise the error to its callers. If it may be the fault of one of them, each item goes by itself."""
        if not aside and not concerns_all(error):
            for waiting in batch:
                self._start(self._aside(waiting))
            return
        for waiting in batch:
            waiting.fail(error if len(batch) == 1 else copied(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        # An empty context: the batch belongs to no caller's.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def give(batch: Sequence[PendingItem[T, R]], results: Sequence[R]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        waiting.give(result)
