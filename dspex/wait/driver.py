"""How one piece of asynchronous logic serves both clients.

What waits (``as_completed``, ``map``, ``result``) is written once, as asynchronous generators that do nothing but
await a :class:`Driver`. The asynchronous client drives them with its event loop. The synchronous one drives them
with :class:`BlockingDriver`, whose awaits block and never suspend, so that :func:`complete` and :func:`iterate` can
run them to their end without a loop.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

import redis

from dspex.publish import redis_clients
from dspex.wait.hints import Watch

if TYPE_CHECKING:
    from dspex.client.client import Client

__all__ = [
    "FOLLOWER_OPTIONS",
    "BlockingDriver",
    "Driver",
    "Entries",
    "Follower",
    "Row",
    "Signal",
    "complete",
    "entries_of",
    "iterate",
    "read_arguments",
    "steps",
]

T = TypeVar("T")
Row = Mapping[str, Any]
#: Entries of a Redis Stream: the id of each, and its fields.
Entries = Sequence[tuple[bytes, Mapping[bytes, bytes]]]

#: How Redis is asked for a stream: an answer that does not come ends the wait, however long it was to be.
FOLLOWER_OPTIONS: Mapping[str, Any] = {"socket_connect_timeout": 2.0, "socket_timeout": 5.0, "protocol": 2}
#: Entries of one answer.
ENTRIES = 500


class Signal(Protocol):
    """What a waiter's thread wakes a waiting caller with."""

    def set(self) -> None:
        """From any thread."""

    async def wait(self, seconds: float | None) -> None:
        """Until it is set, or ``seconds`` have passed; then it is clear again."""


class Follower(Protocol):
    """Reads one Redis Stream."""

    async def read(self, after: str, seconds: float) -> Entries:
        """The next entries; waits up to ``seconds`` (less than the socket's timeout) for the first.

        Raises redis.RedisError, OSError.
        """


class Driver(Protocol):
    """What the waiting logic needs from the client that runs it."""

    def signal(self) -> Signal: ...

    def watch(self, keys: Sequence[str], signal: Signal) -> AbstractContextManager[Watch]: ...

    async def call(self, work: Callable[[], T]) -> T:
        """The answer of ``work``, which blocks."""

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        """The rows of those of these executions that are final."""

    def follower(self, key: str) -> AbstractAsyncContextManager[Follower]: ...


class ThreadSignal:
    """A signal that a thread waits for."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        self._event.wait(seconds)
        self._event.clear()


class BlockingDriver:
    """Drives in the calling thread: every await blocks, and none suspends."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def signal(self) -> ThreadSignal:
        return ThreadSignal()

    def watch(self, keys: Sequence[str], signal: Signal) -> AbstractContextManager[Watch]:
        return self._client.watch(keys, signal.set)

    async def call(self, work: Callable[[], T]) -> T:
        return work()

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        return self._client.final_rows(ids)

    @asynccontextmanager
    async def follower(self, key: str) -> AsyncIterator[Follower]:
        with redis_clients.client(self._client.broker_url, **FOLLOWER_OPTIONS) as source:
            yield _BlockingFollower(source, key)


class _BlockingFollower:
    def __init__(self, source: redis.Redis, key: str) -> None:
        self._source = source
        self._key = key

    async def read(self, after: str, seconds: float) -> Entries:
        return entries_of(self._source.xread(**read_arguments(self._key, after, seconds)))


def read_arguments(key: str, after: str, seconds: float) -> dict[str, Any]:
    """The arguments of XREAD for :meth:`Follower.read`."""
    # Redis waits for ever when it is told to wait for 0 ms.
    return {"streams": {key: after}, "count": ENTRIES, "block": max(int(seconds * 1000), 1) if seconds else None}


def entries_of(reply: Any) -> Entries:
    """The entries of XREAD's answer about one stream."""
    entries: Entries = reply[0][1] if reply else ()
    return entries


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


async def steps(driver: Driver, items: Iterator[T]) -> AsyncGenerator[T, None]:
    """Items that block while they are made, and none of which is None."""
    while (item := await driver.call(partial(next, items, None))) is not None:
        yield item
