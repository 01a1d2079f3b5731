"""Cancellation: ends the running attempts whose cancellation was requested.

The request is a column of the execution's row. A message on ``dspex:cancel`` in Redis only makes the worker read that
column at once. The worker reads it each second anyway, in case the message was lost or Redis is out of reach. A forged
message therefore cancels nothing, and a flood of them costs a query every HINT_PAUSE_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import psycopg
import redis.asyncio

from dspex.errors import MessageRefused
from dspex.publish.channels import CANCEL_CHANNEL, read_ids
from dspex.publish.redis_clients import async_client
from dspex.publish.refused_data import RefusedData
from workers.attempt.executor import Executor
from workers.attempt.ledger import Ledger
from workers.consume.refusal_counts import RefusalCounts

__all__ = ["Cancellation"]

log = logging.getLogger("dspex.workers")

POLL_SECONDS = 1.0
HINT_PAUSE_SECONDS = 0.05
RECONNECT_SECONDS = 1.0


class Cancellation:
    """Two tasks on the worker's loop: one listens to Redis, one reads from Postgres."""

    def __init__(self, ledger: Ledger, executor: Executor, refusals: RefusalCounts, broker_url: str) -> None:
        self._ledger = ledger
        self._executor = executor
        self._refusals = refusals
        self._refused = RefusedData(CANCEL_CHANNEL, log)
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
                await asyncio.sleep(HINT_PAUSE_SECONDS)

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
                    async for message in pubsub.listen():
                        self._take(message)
            except (redis.RedisError, OSError) as error:
                log.debug("not listening for cancellations: %s", error)
            except Exception as error:  # the server does not keep to Redis' protocol
                log.warning("not listening for cancellations: a reply is unreadable: %s", type(error).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)

    def _take(self, message: Mapping[str, Any]) -> None:
        """Take a message of the subscription. What was published before the subscription was lost."""
        if message["type"] == "subscribe":
            self._hinted.set()
        elif message["type"] == "message":
            try:
                ids = read_ids(message["data"])
            except MessageRefused as error:
                self._refused.note(error.details["reason"])
                self._refusals.note("cancel_channel")
            else:
                if self._executor.runs_any(ids):
                    self._hinted.set()
