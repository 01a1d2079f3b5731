"""The driver of the asynchronous client: tasks wait in the event loop, and blocking work runs in a few threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import TypeVar
from uuid import UUID

import redis.asyncio

from dspex.publish import redis_clients
from dspex.wait.completion import groups
from dspex.wait.driver import (
    FOLLOWER_OPTIONS,
    Connections,
    Entries,
    Follower,
    Row,
    Signal,
    entries_of,
    final_rows,
    read_arguments,
)
from dspex.wait.hints import Watch

__all__ = ["LoopDriver"]

T = TypeVar("T")

#: The most blocking calls at a time; others wait for a thread. The database pool has more connections than that.
THREADS = 10


class LoopSignal:
    """A signal that a task waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, so no task waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()


class LoopDriver:
    """Drives in the running event loop. Blocking work runs in its threads."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._threads = _new_threads()
        self._pid = os.getpid()
        self._asked: dict[asyncio.AbstractEventLoop, list[_Question]] = {}
        #: The loop itself keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown(wait=False)

    def signal(self) -> LoopSignal:
        return LoopSignal()

    def watch(self, keys: Sequence[str], signal: Signal) -> AbstractContextManager[Watch]:
        return self._connections.waiter.watch(keys, signal.set)

    async def call(self, work: Callable[[], T]) -> T:
        if self._pid != os.getpid():  # threads do not survive a fork
            self._threads, self._pid = _new_threads(), os.getpid()
        context = copy_context()  # so that a trace continues in the thread
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)

    @asynccontextmanager
    async def follower(self, key: str) -> AsyncIterator[Follower]:
        async with redis_clients.async_client(self._connections.broker.url, **FOLLOWER_OPTIONS) as source:
            yield _LoopFollower(source, key)

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        """The rows of these executions that are final. Questions asked during a query share the next query."""
        loop = asyncio.get_running_loop()
        question = _Question(ids, loop.create_future())
        if loop in self._asked:
            self._asked[loop].append(question)
        else:
            self._asked[loop] = [question]
            task = loop.create_task(self._answer(loop))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await question.answer

    async def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while questions := self._asked[loop]:
                self._asked[loop] = []
                await self._answer_all(questions)
        finally:
            del self._asked[loop]

    async def _answer_all(self, questions: Sequence[_Question]) -> None:
        rows: dict[UUID, Row] = {}
        try:
            for group in groups({id for question in questions for id in question.ids}):
                found = await self.call(partial(final_rows, self._connections, group))
                rows.update({row["id"]: row for row in found})
        except Exception as error:  # every waiting task gets the error
            for question in questions:
                question.fail(error)
        else:
            for question in questions:
                question.settle(rows)


class _LoopFollower:
    def __init__(self, source: redis.asyncio.Redis, key: str) -> None:
        self._source = source
        self._key = key

    async def read(self, after: str, seconds: float) -> Entries:
        return entries_of(await self._source.xread(**read_arguments(self._key, after, seconds)))


class _Question:
    """A task's question which of these executions are final, answered together with the questions of other tasks."""

    def __init__(self, ids: Sequence[UUID], answer: asyncio.Future[Sequence[Row]]) -> None:
        self.ids = ids
        self.answer = answer

    def settle(self, rows: Mapping[UUID, Row]) -> None:
        if not self.answer.done():
            self.answer.set_result([rows[id] for id in self.ids if id in rows])

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _new_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="dspex-async")
