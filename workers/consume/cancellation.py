"""Cancellation: ends what somebody wants cancelled.

The wish is a column of the execution's row. ``dspex:cancel`` on Redis only says that there is one, so that it is
looked for at once; it is looked for each second anyway, in case the word was lost or Redis is away. A forged message
therefore cancels nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import psycopg
import redis.asyncio

from dspex.publish.channels import CANCEL_CHANNEL
from dspex.publish.redis_clients import async_client
from workers.attempt.executor import Executor
from workers.attempt.ledger import Ledger

__all__ = ["Cancellation"]

log = logging.getLogger("dspex.workers")

POLL_SECONDS = 1.0
RECONNECT_SECONDS = 1.0


class Cancellation:
    """Two tasks on the worker's loop: one listens, one looks."""

    def __init__(self, ledger: Ledger, executor: Executor, broker_url: str) -> None:
        self._ledger = ledger
        self._executor = executor
        self._redis = async_client(broker_url, socket_connect_timeout=5, health_check_interval=10)
        self._hinted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._listen(), name="dspex-cancel-listen"),
            asyncio.create_task(self._look(), name="dspex-cancel-look"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hinted.wait(), POLL_SECONDS)
            self._hinted.clear()
            if self._executor.running:
                await self._end_what_is_asked()

    async def _end_what_is_asked(self) -> None:
        try:
            asked = await self._ledger.cancelling()
        except psycopg.Error as error:
            log.warning("cannot look for cancellations: %s", str(error).split("\n")[0])
            return
        for id, attempt, requested_at in asked:
            self._executor.cancel(id, attempt, requested_at)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(CANCEL_CHANNEL)
                    async for _ in pubsub.listen():
                        self._hinted.set()
            except (redis.RedisError, OSError) as error:
                log.debug("not listening for cancellations: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)
