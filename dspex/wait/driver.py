"""What the waiting logic needs from a client, so that one implementation serves both clients.

Waiting (``as_completed``, ``map``, ``result``) is written once, as asynchronous generators that await nothing but a
:class:`Driver`. The asynchronous client drives them with its event loop (loop_driver.py), the blocking client in the
calling thread (blocking_driver.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from dspex.wait.hints import FinalWatch, Row, Watch

__all__ = [
    "FOLLOWER_OPTIONS",
    "Driver",
    "Entries",
    "Follower",
    "Row",
    "Signal",
    "entries_of",
    "read_arguments",
    "steps",
]

T = TypeVar("T")
#: Entries of a Redis Stream: the id of each, and its fields.
Entries = Sequence[tuple[bytes, Mapping[bytes, bytes]]]

#: Options of the Redis client that reads a stream. A reply that does not arrive ends the read.
FOLLOWER_OPTIONS: Mapping[str, Any] = {"socket_connect_timeout": 2.0, "socket_timeout": 5.0, "protocol": 2}
#: The most entries of one reply.
ENTRIES = 500


class Signal(Protocol):
    """Wakes a waiting caller from another thread."""

    def set(self) -> None:
        """Wake the caller. Safe to call from any thread."""

    async def wait(self, seconds: float | None) -> None:
        """Wait until the signal is set or ``seconds`` have passed, then clear it."""


class Follower(Protocol):
    """Reads one Redis Stream."""

    async def read(self, after: str, seconds: float) -> Entries:
        """The next entries; waits up to ``seconds`` (less than the socket's timeout) for the first.

        Raises redis.RedisError, OSError.
        """


class Driver(Protocol):
    """What the waiting logic needs from the client that runs it."""

    def signal(self) -> Signal: ...

    def watch(
        self, ids: Iterable[UUID], signal: Signal, *, since: float | None = None
    ) -> AbstractContextManager[Watch]: ...

    def watch_final(
        self, id: UUID, signal: Signal, *, since: float | None = None
    ) -> AbstractContextManager[FinalWatch]: ...

    async def call(self, work: Callable[[], T]) -> T:
        """The return value of ``work``, which waits for nothing but the connections of the client's session."""

    async def block(self, work: Callable[[], T]) -> T:
        """The return value of ``work``, which may block."""

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        """The rows of these executions that are final."""

    def follower(self, key: str) -> AbstractAsyncContextManager[Follower]: ...


def read_arguments(key: str, after: str, seconds: float) -> dict[str, Any]:
    """The arguments of XREAD for :meth:`Follower.read`."""
    # BLOCK 0 would wait for ever.
    return {"streams": {key: after}, "count": ENTRIES, "block": max(int(seconds * 1000), 1) if seconds else None}


def entries_of(reply: Any) -> Entries:
    """The entries in a reply of XREAD about one stream; none in a reply of another shape."""
    match reply:
        case [[_, [*entries]]]:
            return [(entry[0], entry[1]) for entry in entries if isinstance(entry, tuple)]
    return ()


async def steps(driver: Driver, items: Iterator[T]) -> AsyncGenerator[T, None]:
    """The items of an iterator that blocks. None of them may be None."""
    while (item := await driver.block(partial(next, items, None))) is not None:
        yield item
