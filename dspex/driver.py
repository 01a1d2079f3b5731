"""How one piece of asynchronous logic serves both clients.

What waits (``as_completed``, ``map``, ``result``) is written once, as asynchronous generators that do nothing but
await a :class:`Driver`. The asynchronous client drives them with its event loop. The synchronous one drives them
with :class:`BlockingDriver`, whose awaits block and never suspend, so that :func:`complete` and :func:`iterate` can
run them to their end without a loop.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from dspex.waiter import Watch

if TYPE_CHECKING:
    from dspex.client import Client

__all__ = ["BlockingDriver", "Driver", "Row", "Signal", "complete", "iterate", "steps"]

T = TypeVar("T")
Row = Mapping[str, Any]


class Signal(Protocol):
    """What a waiter's thread wakes a waiting caller with."""

    def set(self) -> None:
        """From any thread."""

    async def wait(self, seconds: float | None) -> None:
        """Until it is set, or ``seconds`` have passed; then it is clear again."""


class Driver(Protocol):
    """What the waiting logic needs from the client that runs it."""

    def signal(self) -> Signal: ...

    def watch(self, keys: Sequence[str], signal: Signal) -> AbstractContextManager[Watch]: ...

    async def call(self, work: Callable[[], T]) -> T:
        """The answer of ``work``, which blocks."""

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        """The rows of those of these executions that are final."""


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
