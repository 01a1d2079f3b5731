"""The driver of the asynchronous client: tasks wait in the event loop. What may block otherwise runs in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import copy_context
from typing import TypeVar
from uuid import UUID

import redis.asyncio

from dspex.publish import redis_clients
from dspex.store.batching.loop_batcher import LoopBatcher
from dspex.store.loop.greenlets import in_greenlet
from dspex.wait.driver import FOLLOWER_OPTIONS, Entries, Follower, Row, Signal, entries_of, read_arguments
from dspex.wait.hints import FinalWatch, Watch
from dspex.wait.loop_waiter import LoopWaiter

__all__ = ["LoopDriver", "Threads"]

T = TypeVar("T")

#: The most blocking calls at a time.
THREADS = 10


class LoopSignal:
    """A signal that a task waits for. It is set in the task's own loop."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        if not self._is_set:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if seconds is None else loop.call_later(seconds, self.set)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        self._is_set = False


class Threads:
    """A few threads for what may block. Others wait for a thread. They begin with the first call, and again with the
    first one after a close."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._threads: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        if self._threads is None or self._pid != os.getpid():  # threads do not survive a fork
            self._threads, self._pid = self._new(), os.getpid()
        context = copy_context()  # so that a trace continues in the thread
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)

    def close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    def _new(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="dspex-async")


class LoopDriver:
    """Drives in its event loop."""

    def __init__(
        self,
        waiter: LoopWaiter,
        finals: LoopBatcher[Sequence[UUID], Sequence[Row]],
        broker_url: str,
        threads: Threads,
    ) -> None:
        self._waiter = waiter
        self._finals = finals
        self._broker_url = broker_url
        self._threads = threads

    def signal(self) -> LoopSignal:
        return LoopSignal()

    def watch(
        self, ids: Iterable[UUID], signal: Signal, *, since: float | None = None
    ) -> AbstractContextManager[Watch]:
        return self._waiter.watch(ids, signal.set, since=since)

    def watch_final(
        self, id: UUID, signal: Signal, *, since: float | None = None
    ) -> AbstractContextManager[FinalWatch]:
        return self._waiter.watch_final(id, signal.set, since=since)

    async def call(self, work: Callable[[], T]) -> T:
        return await in_greenlet(work)

    async def block(self, work: Callable[[], T]) -> T:
        return await self._threads.run(work)

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        return await self._finals.add(ids)

    @asynccontextmanager
    async def follower(self, key: str) -> AsyncIterator[Follower]:
        async with redis_clients.async_client(self._broker_url, **FOLLOWER_OPTIONS) as source:
            yield _LoopFollower(source, key)


class _LoopFollower:
    def __init__(self, source: redis.asyncio.Redis, key: str) -> None:
        self._source = source
        self._key = key

    async def read(self, after: str, seconds: float) -> Entries:
        return entries_of(await self._source.xread(**read_arguments(self._key, after, seconds)))
