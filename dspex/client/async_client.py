"""The client for asyncio: ``await`` before calls, ``async for`` over waits.

There is no second implementation. Submitting, reading and control run the methods of :class:`dspex.Client` in a
greenlet over psycopg's asyncio (dspex/store/loop/loop_database.py), without a thread. Waiting is the shared logic of
dspex/wait/completion.py, driven by the event loop. What computes or blocks otherwise runs in a few threads: batches,
reports, health.
"""

from __future__ import annotations

import functools
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
    Sized,
)
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload
from uuid import UUID

from dspex.client.batch import AsyncBatch, map_result, mapped, store_all
from dspex.client.client import Client, settings_of
from dspex.client.execution import AsyncExecution, Execution, executed
from dspex.client.notebook.live_progress import shown_async
from dspex.client.result import Result, result_type_of
from dspex.client.shared.loop_session import LoopSession
from dspex.client.tables.given_rows import given_rows, given_rows_async
from dspex.data.frames import DataFrame, as_frame, beside
from dspex.program.program import Program
from dspex.settings import Settings
from dspex.signatures import Signature
from dspex.store.loop.greenlets import in_greenlet
from dspex.submit.batch_rows import BatchRows, Rejected
from dspex.submit.bulk import BULK_ROWS, MAP_ROWS, Intake, chunks, chunks_async
from dspex.wait.completion import any_final, check_timeout
from dspex.wait.driver import Row, steps

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection  # needs greenlet, which callers who pass one have

__all__ = ["AsyncClient"]

T = TypeVar("T")
P = ParamSpec("P")

Rows = Iterable[Any] | AsyncIterable[Any]


def _awaited(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method of the blocking client, over the connections of the event loop."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await in_greenlet(partial(method, self._on_loop, *args, **kwargs))

    return call


def _in_thread(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method of the blocking client, run in a thread."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._session.threads.run(partial(method, self._client, *args, **kwargs))

    return call


def _execution(
    method: Callable[Concatenate[Client, P], Execution],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, AsyncExecution]]:
    """:func:`_awaited` for a method that returns an execution."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncExecution:
        return self._of(await in_greenlet(partial(method, self._on_loop, *args, **kwargs)))

    return call


def _executions(
    method: Callable[Concatenate[Client, P], list[Execution]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, list[AsyncExecution]]]:
    """:func:`_awaited` for a method that returns executions."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> list[AsyncExecution]:
        return [self._of(found) for found in await in_greenlet(partial(method, self._on_loop, *args, **kwargs))]

    return call


class _LoopClient(Client):
    """The client whose methods are called in a greenlet."""

    def __init__(self, session: LoopSession) -> None:
        self._use(session)


class AsyncClient:
    """:class:`dspex.Client` with ``await``. Share one between tasks; close it, or use it as ``async with``.

    Takes the settings that Client takes, and raises the same errors. Nothing is connected before the first call.
    """

    def __init__(
        self, settings: Settings | None = None, *, database_url: str | None = None, broker_url: str | None = None
    ) -> None:
        used = settings_of(settings, database_url=database_url, broker_url=broker_url)
        self._session = LoopSession(used)
        self._on_loop = _LoopClient(self._session)
        #: For what runs in threads.
        self._client = Client(used)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and end every wait. Executions go on. A client that is used again connects again."""
        await self._session.threads.run(self._client.close)
        await self._session.aclose()

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._client.settings

    deploy = _awaited(Client.deploy)
    program = _awaited(Client.program)
    versions = _awaited(Client.versions)
    promote = _awaited(Client.promote)
    alias = _awaited(Client.alias)
    rollout = _awaited(Client.rollout)
    end_rollout = _awaited(Client.end_rollout)
    rollouts = _awaited(Client.rollouts)
    program_changes = _awaited(Client.program_changes)
    programs = _awaited(Client.programs)
    batches = _awaited(Client.batches)
    workers = _awaited(Client.workers)
    health = _in_thread(Client.health)
    alerts = _in_thread(Client.alerts)
    report = _in_thread(Client.report)
    audit_trail = _awaited(Client.audit_trail)
    approvals = _awaited(Client.approvals)
    approve = _awaited(Client.approve)
    reject = _awaited(Client.reject)
    bundles = _awaited(Client.bundles)
    cancel = _awaited(Client.cancel)
    cancel_batch = _awaited(Client.cancel_batch)
    retry_failed = _awaited(Client.retry_failed)
    pause = _awaited(Client.pause)
    resume = _awaited(Client.resume)
    paused = _awaited(Client.paused)
    verify_audit = _in_thread(Client.verify_audit)
    progress = _awaited(Client.progress)
    schedule = _awaited(Client.schedule)
    schedules = _awaited(Client.schedules)
    unschedule = _awaited(Client.unschedule)
    dataset = _in_thread(Client.dataset)
    datasets = _in_thread(Client.datasets)
    evaluate = _in_thread(Client.evaluate)
    evaluation = _in_thread(Client.evaluation)
    evaluations = _in_thread(Client.evaluations)
    optimize = _in_thread(Client.optimize)
    optimization = _in_thread(Client.optimization)
    replay = _in_thread(Client.replay)
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
        tenant: str | None = None,
        webhook: str | None = None,
        route: str | None = None,
        within: str | float | None = None,
        otherwise: str | None = None,
        dedup: bool | timedelta = False,
        version: str | None = None,
    ) -> AsyncExecution:
        """As :meth:`Client.submit`; ``connection`` is an AsyncConnection (psycopg) to the same database."""
        submit = partial(
            self._on_loop.submit, program, inputs, idempotency_key=idempotency_key, priority=priority, run_at=run_at,
            timeout=timeout, metadata=metadata, stream=stream, tenant=tenant, webhook=webhook, route=route,
            within=within, otherwise=otherwise, dedup=dedup, version=version,
        )  # fmt: skip
        if connection is None:
            return self._of(await in_greenlet(submit))
        return self._of(await connection.run_sync(lambda sync_connection: submit(connection=sync_connection)))

    @overload
    async def execute(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        result_type: type[T],
        timeout: float | None = None,  # noqa: ASYNC109 - as in Client.execute
        **options: Any,
    ) -> T: ...

    @overload
    async def execute(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Client.execute
        **options: Any,
    ) -> Result: ...

    async def execute(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        result_type: type[Any] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in Client.execute
        **options: Any,
    ) -> Any:
        """As :meth:`Client.execute`."""
        wanted = None if result_type is None else result_type_of(result_type)
        ended = await executed(self._session, self._on_loop._submitter, program, inputs, timeout, options)
        if ended is None:
            execution = await self.submit(program, inputs, **options)
            ended = execution.id, await execution.result(timeout)
        id, result = ended
        return result if wanted is None else wanted.read(result, id)

    async def submit_many(
        self,
        program: str | Program,
        rows: Rows,
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        webhook: str | None = None,
        on_rejected: Callable[[Rejected], None] | None = None,
        route: str | None = None,
        within: str | float | None = None,
        otherwise: str | None = None,
        dedup: bool | timedelta = False,
        version: str | None = None,
    ) -> AsyncBatch:
        """As :meth:`Client.submit_many`; ``rows`` may be asynchronous, and other rows are iterated in a thread."""
        begin = partial(
            self._client._submitter.begin, program, version=version, priority=priority, run_at=run_at,
            metadata=metadata, tenant=tenant, webhook=webhook, route=route, within=within, otherwise=otherwise,
            dedup=dedup,
        )  # fmt: skip
        taken, intake = await self._session.threads.run(begin)
        source = self._chunks(rows, as_frame(rows), intake.signature, BULK_ROWS)
        await store_all(self._session.driver, intake, source, on_rejected or taken.rejected.append)
        await self._session.threads.run(intake.finish)
        return AsyncBatch(self._session, taken)

    def map(
        self,
        program: str | Program,
        rows: Rows,
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
        version: str | None = None,
    ) -> Any:
        """As :meth:`Client.map`: ``async for`` over the results, or ``await`` for a frame."""
        check_timeout(timeout)
        frame = as_frame(rows)
        begin = partial(self._client._submitter.begin, program, version=version, priority=priority, metadata=metadata)
        if frame is None:
            return self._mapped(begin, rows, None, timeout, return_exceptions=return_exceptions)
        return self._frame(begin, frame, timeout, return_exceptions=return_exceptions)

    async def batch(self, id: UUID | str) -> AsyncBatch:
        """As :meth:`Client.batch`."""
        found = await in_greenlet(partial(self._on_loop.batch, id))
        return AsyncBatch(self._session, found._rows)

    async def wait_any(
        self,
        ids: Collection[UUID],
        timeout: float | None,  # noqa: ASYNC109 - it ends, and raises nothing
    ) -> AsyncGenerator[Row, None]:
        """The row of each of these executions as it becomes final; ends with the last, or after ``timeout`` seconds."""
        async with aclosing(any_final(self._session.driver, ids, timeout)) as rows:
            async for row in rows:
                yield row

    async def _mapped(
        self,
        begin: Callable[[], tuple[BatchRows, Intake]],
        rows: Rows,
        frame: DataFrame | None,
        seconds: float | None,
        *,
        return_exceptions: bool,
    ) -> AsyncGenerator[Any, None]:
        """The result of each row, in order."""
        taken, intake = await self._session.threads.run(begin)
        source = self._chunks(rows, frame, intake.signature, MAP_ROWS)
        pairs = mapped(self._session.driver, taken, intake, source, seconds)
        sized = rows if frame is None else frame
        total = len(sized) if isinstance(sized, Sized) else None
        async with aclosing(shown_async(pairs, f"{taken.program}, batch {taken.id}", total)) as watched:
            async for slot, row in watched:
                # Waits for no query: the program is in the catalogue.
                yield map_result(self._client._session, slot, row, return_exceptions=return_exceptions)

    async def _frame(
        self,
        begin: Callable[[], tuple[BatchRows, Intake]],
        frame: DataFrame,
        seconds: float | None,
        *,
        return_exceptions: bool,
    ) -> Any:
        """The frame with the outputs beside its columns."""
        begun = await self._session.threads.run(begin)
        results = self._mapped(lambda: begun, (), frame, seconds, return_exceptions=return_exceptions)
        async with aclosing(results):
            found = [result async for result in results]
        return await self._session.threads.run(partial(beside, frame, begun[1].signature, found))

    def _chunks(
        self, rows: Rows, frame: DataFrame | None, signature: Signature, most: int
    ) -> AsyncIterator[Sequence[Any]]:
        if isinstance(rows, AsyncIterable):
            return chunks_async(given_rows_async(rows, signature), most)
        return steps(self._session.driver, chunks(given_rows(rows, frame, signature), most))

    def _of(self, execution: Execution) -> AsyncExecution:
        return AsyncExecution(self._session, execution._row)
