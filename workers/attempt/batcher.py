"""Micro-batching: items that wait at the same time share one statement.

A statement over 50 executions costs Postgres little more than one over a single execution, so claims, settlements
and journal entries are not sent one by one. While one statement is under way, the next items gather. An item that
finds the connection idle is sent at once, so no item waits for a timer.

What Postgres refuses for now is kept and sent again until Postgres stores it: only data at fault fails an item
(dspex/store/sqlstates.py). An item that is refused goes on by itself, and the others do not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection

from dspex.store.sessions import IN_UTC, connect_arguments, is_pooled, libpq_url
from dspex.store.sqlstates import Refusal, is_disconnect, reason, refusal
from workers.observe.metrics import BACKEND_FAILURES

__all__ = ["Batcher", "Connection"]

T = TypeVar("T")
R = TypeVar("R")
Connection = AsyncConnection[Any]
#: ``flush(connection, items)`` returns a result for each item. It is called again with an item whose earlier statement
#: was refused, or may have been carried out although no answer came.
Flush = Callable[[Connection, Sequence[T]], Awaitable[Sequence[R]]]

#: Half of a worker's default concurrency: one half is hosted while the other is claimed. With larger batches the loop
#: and Postgres waited for each other in turn: a fifth fewer no-ops a second.
MAX_ITEMS = 100
#: Planning a claim takes longer than executing it, and the plan is the same every time. The plan is made for the
#: worker's first execution. The table may be empty then, so that Postgres would choose a sequential scan, and keep it
#: until the table is analyzed.
SESSION = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
RECONNECT_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
#: A refused item is sent again after these times, and from then on after the last of them.
RETRY_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
#: A refusal with the same SQLSTATE is logged once in this time.
LOG_SECONDS = 30.0

log = logging.getLogger("dspex.workers")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T, R]):
    """An item and its result. ``refusals``: how often it was refused by itself; ``alone``: it is sent by itself."""

    item: T
    result: asyncio.Future[R]
    refusals: int = 0
    alone: bool = False


class Batcher(Generic[T, R]):
    """Gathers items and flushes them together over its own connection, as often as it takes."""

    def __init__(self, name: str, url: str, flush: Flush[T, R]) -> None:
        self._name = name
        self._url = url
        self._flush = flush
        self._waiting: deque[_Waiting[T, R]] = deque()
        #: The items whose last try was refused, and why the last of them was.
        self._refused: set[_Waiting[T, R]] = set()
        self._why = ""
        self._wake = asyncio.Event()
        self._connection: Connection | None = None
        self._lost = 0
        self._logged: defaultdict[str | None, float] = defaultdict(lambda: -math.inf)
        self._task: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """Why items wait that Postgres refuses; None while it refuses none. Safe in any thread."""
        count = len(self._refused)
        return f"{self._name}: Postgres refuses {count} for now: {self._why}" if count else None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"dspex-{self._name}")

    def add(self, item: T) -> asyncio.Future[R]:
        """Flush the item together with the others that wait. Await its result; an item whose result is cancelled is
        not sent any more."""
        waiting = _Waiting[T, R](item, asyncio.get_running_loop().create_future())
        self._send(waiting)
        return waiting.result

    async def close(self) -> None:
        """Stop, and cancel the items that still wait."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for waiting in (*self._waiting, *self._refused):
            waiting.result.cancel()
        await self._disconnect()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._take()
            if batch:
                await self._deliver(batch)
            if not self._waiting:
                self._wake.clear()

    def _send(self, waiting: _Waiting[T, R]) -> None:
        self._waiting.append(waiting)
        self._wake.set()

    def _take(self) -> list[_Waiting[T, R]]:
        """The next items that share a statement, or one that goes by itself."""
        batch: list[_Waiting[T, R]] = []
        while self._waiting and len(batch) < MAX_ITEMS and not (batch and self._waiting[0].alone):
            waiting = self._waiting.popleft()
            if not waiting.result.done():
                batch.append(waiting)
                if waiting.alone:
                    break
        return batch

    async def _deliver(self, batch: Sequence[_Waiting[T, R]]) -> None:
        try:
            results = await self._flush(await self._connected(), [waiting.item for waiting in batch])
        except psycopg.Error as error:
            await self._note_refusal(batch, error)
        except Exception as error:  # whatever it is, it is raised to those who wait, and the next batch is flushed
            self._fail(batch, error)
        else:
            self._lost = 0
            self._refused.difference_update(batch)
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.result.done():
                    waiting.result.set_result(result)

    async def _note_refusal(self, batch: Sequence[_Waiting[T, R]], error: psycopg.Error) -> None:
        kind = refusal(error)
        if is_disconnect(error) or self._connection is None or self._connection.closed:
            self._log(error, "Postgres is away, waiting for it")
            await self._disconnect()
            self._waiting.extendleft(reversed(batch))
            await asyncio.sleep(RECONNECT_PAUSES[min(self._lost, len(RECONNECT_PAUSES) - 1)])
            self._lost += 1
        elif kind is Refusal.DATA or len(batch) > 1:
            self._fail(batch, error)
        else:
            self._log(error, "Postgres refuses, trying again")
            self._try_later(batch[0], reason(error))
            if kind is Refusal.OURS:
                await self._disconnect()  # the session may have plans that were made before a migration

    def _fail(self, batch: Sequence[_Waiting[T, R]], error: Exception) -> None:
        """Raise the error to those who wait; one bad item must not fail the others, so each of several goes alone."""
        if len(batch) == 1:
            self._refused.discard(batch[0])
            if not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        for waiting in batch:
            waiting.alone = True
        self._waiting.extendleft(reversed(batch))

    def _try_later(self, waiting: _Waiting[T, R], why: str) -> None:
        self._refused.add(waiting)
        self._why = why
        pause = RETRY_PAUSES[min(waiting.refusals, len(RETRY_PAUSES) - 1)]
        waiting.refusals += 1
        waiting.alone = True
        asyncio.get_running_loop().call_later(pause, self._send, waiting)

    def _log(self, error: psycopg.Error, what: str) -> None:
        BACKEND_FAILURES.labels("postgres").inc()
        if time.monotonic() - self._logged[error.sqlstate] >= LOG_SECONDS:
            self._logged[error.sqlstate] = time.monotonic()
            level = logging.ERROR if refusal(error) is Refusal.OURS else logging.WARNING
            log.log(level, "%s: %s: %s", self._name, what, reason(error))

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await AsyncConnection.connect(
                libpq_url(self._url),
                autocommit=True,
                **connect_arguments(self._url, f"dspex worker {self._name}", **SESSION),
            )
            if is_pooled(self._url):
                await self._connection.execute(IN_UTC)
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
