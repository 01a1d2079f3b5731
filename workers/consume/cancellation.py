"""Cancellation: ends the running attempts whose cancellation was requested.

The request is a column of the execution's row. A message on ``dspex:cancel`` in Redis only makes the worker read that
column at once. The worker reads it each second anyway, in case the message was lost or Redis is out of reach. A forged
message therefore cancels nothing.
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
    """Two tasks on the worker's loop: one listens to Redis, one reads from Postgres."""

    def __init__(self, ledger: Ledger, executor: Executor, broker_url: str) -> None:
        self._ledger = ledger
        self._executor = executor
        self._redis = async_client(broker_url, socket_connect_timeout=5, health_check_interval=10)
        self._hinted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._listen(), name="dspex-cancel-listen"),
            asyncio.create_task(self._poll(), name="dspex-cancel-poll"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hinted.wait(), POLL_SECONDS)
            self._hinted.clear()
            if self._executor.running:
                await self._end_requested()

    async def _end_requested(self) -> None:
        try:
            requested = await self._ledger.cancelling()
        except psycopg.Error as error:
            log.warning("cannot read requests for cancellation: %s", str(error).split("\n")[0])
            return
        for id, attempt, requested_at in requested:
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
