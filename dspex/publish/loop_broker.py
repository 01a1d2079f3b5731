"""The broker for an event loop: its commands are awaited, in a greenlet (dspex/store/loop/greenlets.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import UUID

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.util import await_only

from dspex.publish import redis_clients
from dspex.publish.broker import CONNECT_TIMEOUT_SECONDS, Broker
from dspex.publish.channels import publish_ids

__all__ = ["LoopBroker"]


class LoopBroker(Broker):
    """Belongs to one event loop. Its methods are called in a greenlet."""

    def script(self, source: str, *, seconds: float) -> Callable[[Sequence[str], Sequence[Any]], object]:
        run = self._loop_client(seconds, retries=0).register_script(source)
        return lambda keys, arguments: await_only(run(keys=keys, args=arguments))

    async def aclose(self) -> None:
        for client in self._loop_clients:
            await client.aclose()

    def _open(self, pool_size: int) -> None:
        self._loop_clients: list[redis.asyncio.Redis] = []
        self._loop_redis = self._loop_client()
        self._loop_free = asyncio.BoundedSemaphore(pool_size)

    def _push(self, key: str, message: str) -> None:
        await_only(self._with_one(lambda: self._loop_redis.lpush(key, message)))

    def _announce(self, channel: str, ids: Collection[UUID]) -> None:
        await_only(self._with_one(lambda: publish_ids(self._loop_redis, channel, ids)))

    async def _with_one(self, command: Callable[[], Any]) -> None:
        async with self._loop_free:
            await command()

    def _loop_client(self, seconds: float = CONNECT_TIMEOUT_SECONDS, *, retries: int = 1) -> redis.asyncio.Redis:
        client = redis_clients.async_client(
            self.url,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            seconds=seconds,
            retry=Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
        )
        self._loop_clients.append(client)
        return client
