"""Micro-batching: items that wait at the same time share one statement.

A statement over 50 executions costs Postgres little more than one over a single execution, so claims, settlements
and journal entries are not sent one by one. While one statement is under way, the next items gather. An item that
finds the connection idle is sent at once, so no item waits for a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection

from dspex.store.database import CONNECT_TIMEOUT_SECONDS, KEEPALIVE, is_disconnect
from dspex.store.sessions import IN_UTC, is_pooled, libpq_url, session_arguments
from workers.observe.metrics import BACKEND_FAILURES

__all__ = ["Batcher", "Connection"]

T = TypeVar("T")
R = TypeVar("R")
Connection = AsyncConnection[Any]
#: ``flush(connection, items, again)`` returns a result for each item; ``again`` is true when an earlier try may
#: have been carried out although no answer came.
Flush = Callable[[Connection, Sequence[T], bool], Awaitable[Sequence[R]]]

#: Half of a worker's default concurrency: one half is hosted while the other is claimed. With larger batches the loop
#: and Postgres waited for each other in turn: a fifth fewer no-ops a second.
MAX_ITEMS = 100
#: Planning a claim takes longer than executing it, and the plan is the same every time. The plan is made for the
#: worker's first execution. The table may be empty then, so that Postgres would choose a sequential scan, and keep it
#: until the table is analyzed.
SESSION = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
RECONNECT_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)

log = logging.getLogger("dspex.workers")


class Batcher(Generic[T, R]):
    """Gathers items and flushes them together over its own connection; it reconnects for as long as it takes."""

    def __init__(self, name: str, url: str, flush: Flush[T, R]) -> None:
        self._name = name
        self._url = url
        self._flush = flush
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._wake = asyncio.Event()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"dspex-{self._name}")

    def add(self, item: T) -> asyncio.Future[R]:
        """Flush the item together with the others that wait. Await its result."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._wake.set()
        return future

    async def close(self) -> None:
        """Stop, and cancel the items that still wait."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for _, future in self._waiting:
            future.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._take()
            if batch:
                await self._deliver(batch)
            if not self._waiting:
                self._wake.clear()

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < MAX_ITEMS:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _deliver(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._flush_with_patience([item for item, _ in batch])
        except (
            Exception
        ) as error:  # whatever it is, it is raised to those who wait for these items, and the next batch is flushed
            if len(batch) > 1:  # one bad item must not fail the others
                for single in batch:
                    await self._deliver([single])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def _flush_with_patience(self, items: Sequence[T]) -> Sequence[R]:
        """Flush, again and again while the database is away: finished work must be recorded."""
        tries = 0
        while True:
            try:
                return await self._flush(await self._connected(), items, tries > 0)
            except psycopg.Error as error:
                if not is_disconnect(error):
                    raise
                BACKEND_FAILURES.labels("postgres").inc()
                if tries == 0:
                    log.warning("%s: Postgres is away, waiting for it: %s", self._name, str(error).split("\n")[0])
                await self._disconnect()
                await asyncio.sleep(RECONNECT_PAUSES[min(tries, len(RECONNECT_PAUSES) - 1)])
                tries += 1

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await AsyncConnection.connect(
                libpq_url(self._url),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                application_name=f"dspex worker {self._name}",
                **session_arguments(self._url, **SESSION),
                **KEEPALIVE,
            )
            if is_pooled(self._url):
                await self._connection.execute(IN_UTC)
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
