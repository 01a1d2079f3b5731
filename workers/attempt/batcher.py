"""The batchers of a worker: claims, settlements and journal entries that wait share a statement, until it is stored.

They gather as every batcher does (dspex/store/batching/gathering.py), each over its own connection. What Postgres
refuses for now is kept and sent again until Postgres stores it: only data at fault fails an item
(dspex/store/sqlstates.py). An item that is refused goes on by itself, and the others do not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from dspex.store.batching.gathering import Gathering, PendingItem
from dspex.store.batching.loop_batcher import LoopBatcher, give
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


class Batcher(LoopBatcher[T, R]):
    """Gathers items and flushes them together over its own connection, as often as it takes."""

    def __init__(self, name: str, url: str, flush: Flush[T, R]) -> None:
        super().__init__(self._flush_connected, Gathering(MAX_ITEMS), name=name)
        self._url = url
        self._flush_over = flush
        #: The items whose last try was refused, and why the last of them was.
        self._refused: set[PendingItem[T, R]] = set()
        self._why = ""
        self._connection: Connection | None = None
        self._lost = 0
        self._logged: defaultdict[str | None, float] = defaultdict(lambda: -math.inf)

    @property
    def trouble(self) -> str | None:
        """Why items wait that Postgres refuses; None while it refuses none. Safe in any thread."""
        count = len(self._refused)
        return f"{self.name}: Postgres refuses {count} for now: {self._why}" if count else None

    async def close(self) -> None:
        """Stop, and cancel the items that still wait."""
        await super().close()
        for waiting in self._refused:
            waiting.cancel()
        await self._disconnect()

    async def deliver(self, batch: Sequence[PendingItem[T, R]], *, aside: bool = False) -> None:
        try:
            results = await self._flush_connected([waiting.item for waiting in batch], aside)
        except psycopg.Error as error:
            await self._note_refusal(batch, error)
        except Exception as error:  # whatever it is, it is raised to those who wait, and the next batch is flushed
            self._fail_each(batch, error)
        else:
            self._lost = 0
            self._refused.difference_update(batch)
            give(batch, results)

    async def _flush_connected(self, items: Sequence[T], _aside: bool) -> Sequence[R]:
        return await self._flush_over(await self._connected(), items)

    async def _note_refusal(self, batch: Sequence[PendingItem[T, R]], error: psycopg.Error) -> None:
        kind = refusal(error)
        if is_disconnect(error) or self._connection is None or self._connection.closed:
            self._log(error, "Postgres is away, waiting for it")
            await self._disconnect()
            self._gathering.put_back(batch)
            await asyncio.sleep(RECONNECT_PAUSES[min(self._lost, len(RECONNECT_PAUSES) - 1)])
            self._lost += 1
        elif kind is Refusal.DATA or len(batch) > 1:
            self._fail_each(batch, error)
        else:
            self._log(error, "Postgres refuses, trying again")
            self._try_later(batch[0], reason(error))
            if kind is Refusal.OURS:
                await self._disconnect()  # the session may have plans that were made before a migration

    def _fail_each(self, batch: Sequence[PendingItem[T, R]], error: Exception) -> None:
        """Raise the error to those who wait; one bad item must not fail the others, so each of several goes alone."""
        if len(batch) == 1:
            self._refused.discard(batch[0])
            batch[0].fail(error)
        else:
            self._gathering.put_back(batch, alone=True)

    def _try_later(self, waiting: PendingItem[T, R], why: str) -> None:
        self._refused.add(waiting)
        self._why = why
        pause = RETRY_PAUSES[min(waiting.refusals, len(RETRY_PAUSES) - 1)]
        waiting.refusals += 1
        waiting.alone = True
        asyncio.get_running_loop().call_later(pause, self.send, waiting)

    def _log(self, error: psycopg.Error, what: str) -> None:
        BACKEND_FAILURES.labels("postgres").inc()
        if time.monotonic() - self._logged[error.sqlstate] >= LOG_SECONDS:
            self._logged[error.sqlstate] = time.monotonic()
            level = logging.ERROR if refusal(error) is Refusal.OURS else logging.WARNING
            log.log(level, "%s: %s: %s", self.name, what, reason(error))

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await AsyncConnection.connect(
                libpq_url(self._url),
                autocommit=True,
                **connect_arguments(self._url, f"dspex worker {self.name}", **SESSION),
            )
            if is_pooled(self._url):
                await self._connection.execute(IN_UTC)
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
