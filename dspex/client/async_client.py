"""The same client for asyncio: ``await`` in front of what asks a backend, ``async for`` over what waits.

There is no second implementation. Short calls run the methods of :class:`dspex.Client` in a few threads; waiting is
the shared logic of dspex/wait/completion.py, driven by the event loop, so a waiting task costs no thread.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, suppress
from contextvars import copy_context
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from uuid import UUID

import redis.asyncio

from dspex.client.audit_trail import AuditTrail
from dspex.client.batch import BatchRows, Progress, Rejected, final_rows, new_batch_id, ordered_rows
from dspex.client.client import Client
from dspex.client.execution import Execution, ExecutionRecord, Result
from dspex.client.follow import StreamEvent, follow
from dspex.program.program import Program
from dspex.publish import redis_clients
from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.store.lifecycle.status import Status
from dspex.submit.bulk import BULK_ROWS, MAP_ROWS, Intake, chunks, chunks_async, mapped
from dspex.wait.completion import any_final, groups
from dspex.wait.driver import FOLLOWER_OPTIONS, Entries, Follower, Row, Signal, entries_of, read_arguments, steps
from dspex.wait.hints import Watch

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection  # needs greenlet: whoever passes one has it

__all__ = ["AsyncBatch", "AsyncClient", "AsyncExecution"]

T = TypeVar("T")
P = ParamSpec("P")

#: Calls at a time; others wait for a thread. The database pool has as many connections and some to spare.
THREADS = 10

Rows = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]


def _awaited(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method of the client, in a thread."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.call(partial(method, self.client, *args, **kwargs))

    return call


def _execution(
    method: Callable[Concatenate[Client, P], Execution],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, AsyncExecution]]:
    """The same for a method whose answer is an execution."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncExecution:
        return AsyncExecution(self, (await self.call(partial(method, self.client, *args, **kwargs))).record)

    return call


def _executions(
    method: Callable[Concatenate[Client, P], list[Execution]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, list[AsyncExecution]]]:
    """The same for a method whose answer is executions."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> list[AsyncExecution]:
        found = await self.call(partial(method, self.client, *args, **kwargs))
        return [AsyncExecution(self, execution.record) for execution in found]

    return call


class AsyncClient:
    """:class:`dspex.Client` with ``await``. Share one between tasks; close it, or use it as ``async with``.

    Takes the settings that Client takes, and raises the same errors. Nothing is connected before the first call.
    """

    def __init__(
        self, settings: Settings | None = None, *, database_url: str | None = None, broker_url: str | None = None
    ) -> None:
        self.client = Client(settings, database_url=database_url, broker_url=broker_url)
        self.driver = LoopDriver(self)
        self._threads = self._new_threads()
        self._pid = os.getpid()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release connections and end every wait; executions go on."""
        await self.call(self.client.close)
        self._threads.shutdown(wait=False)

    async def call(self, work: Callable[[], T]) -> T:
        """The answer of ``work``, which blocks, from a thread."""
        if self._pid != os.getpid():  # threads do not survive a fork
            self._threads, self._pid = self._new_threads(), os.getpid()
        context = copy_context()  # a trace goes on in the thread
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)

    deploy = _awaited(Client.deploy)
    program = _awaited(Client.program)
    workers = _awaited(Client.workers)
    health = _awaited(Client.health)
    alerts = _awaited(Client.alerts)
    report = _awaited(Client.report)
    audit_trail = _awaited(Client.audit_trail)
    check_schema = _awaited(Client.check_schema)
    cancel = _awaited(Client.cancel)
    cancel_batch = _awaited(Client.cancel_batch)
    retry_failed = _awaited(Client.retry_failed)
    pause = _awaited(Client.pause)
    resume = _awaited(Client.resume)
    paused = _awaited(Client.paused)
    verify_audit = _awaited(Client.verify_audit)
    progress = _awaited(Client.progress)
    get = _execution(Client.get)
    retry = _execution(Client.retry)
    list = _executions(Client.list)

    async def submit(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        priority: int = 5,
        run_at: datetime | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the execution's, not this call's
        metadata: Mapping[str, Any] | None = None,
        connection: AsyncConnection | None = None,
        stream: bool = False,
    ) -> AsyncExecution:
        """As :meth:`Client.submit`; ``connection`` is an AsyncConnection (psycopg) to the same database."""
        submit = partial(
            self.client.submit, program, inputs, idempotency_key=idempotency_key, priority=priority, run_at=run_at,
            timeout=timeout, metadata=metadata, stream=stream,
        )  # fmt: skip
        if connection is None:
            return AsyncExecution(self, (await self.call(submit)).record)
        await self.call(partial(self.client.resolve, program))  # so that nothing else blocks the loop
        joined = await connection.run_sync(lambda sync_connection: submit(connection=sync_connection))
        return AsyncExecution(self, joined.record)

    async def execute(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Client.execute
        **options: Any,
    ) -> Result:
        """As :meth:`Client.execute`."""
        return await (await self.submit(program, inputs, **options)).result(timeout)

    async def submit_many(
        self,
        program: str | Program,
        rows: Rows,
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_rejected: Callable[[Rejected], None] | None = None,
    ) -> AsyncBatch:
        """As :meth:`Client.submit_many`; rows may come asynchronously too, and plain ones are iterated in a thread."""
        batch, intake = await self._begin(program, priority=priority, run_at=run_at, metadata=metadata)
        report = on_rejected or batch.rejected.append
        async for chunk in self._chunks(rows, BULK_ROWS):
            for rejected in await self.call(partial(intake.add, chunk)):
                report(rejected)
        return batch

    async def map(
        self,
        program: str | Program,
        rows: Rows,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Client.map
        return_exceptions: bool = False,
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """As :meth:`Client.map`."""
        batch, intake = await self._begin(program, priority=priority, metadata=metadata)
        async with aclosing(mapped(self.driver, batch, intake, self._chunks(rows, MAP_ROWS), timeout)) as pairs:
            async for slot, row in pairs:
                # The program is at hand: this asks nobody.
                yield self.client.outcome(slot, row, return_exceptions=return_exceptions)

    async def batch(self, id: UUID | str) -> AsyncBatch:
        """As :meth:`Client.batch`."""
        found = await self.call(partial(self.client.batch, id))
        return AsyncBatch(self, found.id, found.program, size=found.size, missing=found.missing)

    async def wait_any(
        self,
        ids: Collection[UUID],
        timeout: float | None,  # noqa: ASYNC109 - it ends, and raises nothing
    ) -> AsyncGenerator[Row, None]:
        """The row of each of these executions as it becomes final; ends with the last, or after ``timeout`` seconds."""
        async with aclosing(any_final(self.driver, ids, timeout)) as rows:
            async for row in rows:
                yield row

    async def _begin(self, program: str | Program, **options: Any) -> tuple[AsyncBatch, Intake]:
        current = await self.call(partial(self.client.resolve, program, fresh=True))
        batch = AsyncBatch(self, new_batch_id(), current.name)
        return batch, self.client.intake(batch, current, **options)

    def _chunks(self, rows: Rows, most: int) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        if isinstance(rows, AsyncIterable):
            return chunks_async(rows, most)
        return steps(self.driver, chunks(rows, most))

    @staticmethod
    def _new_threads() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="dspex-async")


class AsyncExecution(ExecutionRecord):
    """One execution: a snapshot of its row, and a handle on it.

    ``status``, ``error``, ``metrics`` and the rest are as they were when the row was read: by the submit, by
    :meth:`refresh`, or at the end of :meth:`result`.
    """

    def __init__(self, client: AsyncClient, row: Row) -> None:
        super().__init__(row)
        self._client = client

    async def result(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - as in Execution.result
        """As :meth:`Execution.result`."""
        row: Row | None = self.record
        if not Status(self.record["status"]).is_final:
            async with aclosing(self._client.wait_any([self.id], timeout)) as rows:
                row = await anext(rows, None)
        self._row = row or self._row
        return await self._client.call(partial(self._execution.conclude, row, timeout))

    async def stream(
        self,
        *,
        after: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Execution.stream
    ) -> AsyncGenerator[StreamEvent, None]:
        """As :meth:`Execution.stream`."""
        client = self._client
        async with aclosing(follow(client.driver, client.client, self.id, after, timeout)) as events:
            async for event in events:
                yield event

    async def refresh(self) -> AsyncExecution:
        """Read the row again."""
        self._row = await self._client.call(partial(self._client.client.row, self.id))
        return self

    async def inputs(self) -> dict[str, Any]:
        """The validated inputs, as they were stored."""
        return await self._client.call(lambda: self._execution.inputs)

    async def audit_trail(self) -> AuditTrail:
        """What happened, in order of time."""
        return await self._client.audit_trail(self.id)

    async def cancel(self) -> bool:
        """As :meth:`Execution.cancel`."""
        return await self._client.cancel(self.id)

    @property
    def _sealing(self) -> Sealing:
        return self._client.client.sealing

    @property
    def _execution(self) -> Execution:
        return Execution(self._client.client, self.record)


class AsyncBatch(BatchRows):
    """As :class:`Batch`."""

    def __init__(
        self, client: AsyncClient, id: UUID, program: str, *, size: int = 0, missing: Iterable[int] = ()
    ) -> None:
        super().__init__(id, program, size=size, missing=missing)
        self._client = client

    async def progress(self) -> Progress:
        """Counted in the database, now."""
        return await self._client.progress(self.id)

    async def cancel(self) -> int:
        """As :meth:`Batch.cancel`."""
        return await self._client.cancel_batch(self.id)

    async def as_completed(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Batch.as_completed
        *,
        skip: Collection[int] = (),
    ) -> AsyncGenerator[AsyncExecution, None]:
        """As :meth:`Batch.as_completed`."""
        client = self._client
        async with aclosing(final_rows(client.driver, client.client, self, timeout, skip)) as rows:
            async for row in rows:
                yield AsyncExecution(client, row)

    async def in_order(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Batch.in_order
        *,
        skip: Collection[int] = (),
    ) -> AsyncGenerator[AsyncExecution, None]:
        """As :meth:`Batch.in_order`."""
        async with aclosing(ordered_rows(self._client.driver, self, timeout, skip)) as rows:
            async for row in rows:
                yield AsyncExecution(self._client, row)


# ------------------------------------------------------------------------------------------------------ the driver


class LoopSignal:
    """A signal that a task waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()


class LoopDriver:
    """Drives in the running event loop; what blocks goes to the client's threads."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._asked: dict[asyncio.AbstractEventLoop, list[_Question]] = {}
        #: The loop itself does not hold on to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def signal(self) -> LoopSignal:
        return LoopSignal()

    def watch(self, keys: Sequence[str], signal: Signal) -> AbstractContextManager[Watch]:
        return self._client.client.watch(keys, signal.set)

    async def call(self, work: Callable[[], T]) -> T:
        return await self._client.call(work)

    @asynccontextmanager
    async def follower(self, key: str) -> AsyncIterator[Follower]:
        async with redis_clients.async_client(self._client.client.broker_url, **FOLLOWER_OPTIONS) as source:
            yield _LoopFollower(source, key)

    async def finals(self, ids: Sequence[UUID]) -> Sequence[Row]:
        """What tasks ask while a query is under way becomes one query after it."""
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
                found = await self._client.call(partial(self._client.client.final_rows, group))
                rows.update({row["id"]: row for row in found})
        except Exception as error:  # whatever it is, each who asked is told
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
    """Which of these executions are final? Asked by a task, answered with those of others."""

    def __init__(self, ids: Sequence[UUID], answer: asyncio.Future[Sequence[Row]]) -> None:
        self.ids = ids
        self.answer = answer

    def settle(self, rows: Mapping[UUID, Row]) -> None:
        if not self.answer.done():
            self.answer.set_result([rows[id] for id in self.ids if id in rows])

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
