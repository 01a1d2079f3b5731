"""The driver of the blocking client: every await blocks the calling thread, and none suspends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from queue import Empty, SimpleQueue
from typing import TypeVar
from uuid import UUID

import redis

from dspex.publish import redis_clients
from dspex.store.batching.thread_batcher import ThreadBatcher
from dspex.wait.driver import FOLLOWER_OPTIONS, Entries, Follower, Row, Signal, entries_of, read_arguments
from dspex.wait.hints import FinalWatch, Waiter, Watch

__all__ = ["BlockingDriver", "complete", "iterate"]

T = TypeVar("T")


class ThreadSignal:
    """A signal that a thread waits for: a queue costs a third of the CPU of an Event."""

    def __init__(self) -> None:
        self._sets: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._sets.empty():
            self._sets.put(None)

    async def wait(self, seconds: float | None) -> None:
        with contextlib.suppress(Empty):
            self._sets.get(timeout=seconds)


class BlockingDriver:
    """Drives in the calling thread: every await blocks, and none suspends."""

    def __init__(self, waiter: Waiter, finals: ThreadBatcher[Sequence[UUID], Sequence[Row]], broker_url: str) -> None:
        self._waiter = waiter
        self._finals = finals
        self._broker_url = broker_url

    def signal(self) -> ThreadSignal:
        return ThreadSignal()

    def watch(
        self, ids: Iterable[UUID], signal: Signal, *, since: float | None = None
    ) -> AbstractContextManager[Watch]:
        return self._waiter.watch(ids, signal.set, since=since)

    def watch_final(
        self, id: UUID, signal: Signal, *, since: float | None = None
    ) -> AbstractContextManager[FinalWatch]:
        return self._waiter.watch_final(id, signal.set, since=since)

    async def call(self, work: Callable[[], T]) -> T:
        return work()

    block = call

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        return self._finals.ask(ids)

    @asynccontextmanager
    async def follower(self, key: str) -> AsyncIterator[Follower]:
        with redis_clients.client(self._broker_url, **FOLLOWER_OPTIONS) as source:
            yield _BlockingFollower(source, key)


class _BlockingFollower:
    def __init__(self, source: redis.Redis, key: str) -> None:
        self._source = source
        self._key = key

    async def read(self, after: str, seconds: float) -> Entries:
        return entries_of(self._source.xread(**read_arguments(self._key, after, seconds)))


def complete(awaitable: Awaitable[T]) -> T:
    """The value of an awaitable that a BlockingDriver drives."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("this awaitable needs an event loop")


def iterate(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """The items of an asynchronous generator that a BlockingDriver drives; it is closed when the iteration is."""
    try:
        while True:
            try:
                item = complete(anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        complete(items.aclose())
