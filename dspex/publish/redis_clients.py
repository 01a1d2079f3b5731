"""Clients for the Redis of a URL: a server, or the current primary of a Sentinel setup."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import quote

import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.sentinel import Sentinel, SentinelConnectionPool

from dspex.settings.sentinels import Sentinels

__all__ = ["DRIVER", "async_client", "client", "kombu_options", "kombu_url"]


def _driver() -> dict[str, Any]:
    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # an earlier redis-py
        return {}
    return {"driver_info": DriverInfo()}


#: Options of connections that name the library to Redis. Without them redis-py reads the metadata of its package for
#: each connection.
DRIVER = _driver()


class _Timed(redis.asyncio.Redis):
    """Each command ends within ``seconds``, if they are given.

    With redis-py's own ``socket_timeout`` a command is sent by another task, after everything that the loop has to do
    already.
    """

    seconds: float | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.seconds is None:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self.seconds):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except TimeoutError:
            raise redis.TimeoutError(f"no answer within {self.seconds:g} s") from None


class _Primary(redis.Redis):
    """Closes its connections to the sentinels, too; redis-py leaves them open."""

    connection_pool: SentinelConnectionPool

    def close(self) -> None:
        super().close()
        for sentinel in self.connection_pool.sentinel_manager.sentinels:
            sentinel.close()


class _AsyncPrimary(_Timed):
    """The same for asyncio."""

    connection_pool: AsyncSentinelConnectionPool

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for sentinel in self.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def client(url: str, **options: Any) -> redis.Redis:
    """A client; the caller closes it."""
    sentinels, options = Sentinels.of(url), {**DRIVER, **options}
    if sentinels is None:
        return redis.Redis.from_url(url, **options)
    found = Sentinel(sentinels.hosts, sentinel_kwargs=_patience(options))  # type: ignore[no-untyped-call]
    primary: redis.Redis = found.master_for(  # type: ignore[no-untyped-call]
        sentinels.name, redis_class=_Primary, **sentinels.access, **options
    )
    return primary


def async_client(url: str, *, seconds: float | None = None, **options: Any) -> redis.asyncio.Redis:
    """A client for asyncio; the caller closes it. Each command ends within ``seconds``, if they are
    given; a pipeline has no such limit."""
    sentinels, options = Sentinels.of(url), {**DRIVER, **options}
    made: _Timed
    if sentinels is None:
        made = cast("_Timed", _Timed.from_url(url, **options))
    else:
        found = AsyncSentinel(sentinels.hosts, sentinel_kwargs=_patience(options))  # type: ignore[no-untyped-call]
        made = found.master_for(sentinels.name, redis_class=_AsyncPrimary, **sentinels.access, **options)
    made.seconds = seconds
    return made


def kombu_url(url: str) -> str:
    """The URL as kombu and Celery write it."""
    sentinels = Sentinels.of(url)
    if sentinels is None:
        return url
    credentials = f"{quote(sentinels.username or '', safe='')}:{quote(sentinels.password or '', safe='')}@"
    return ";".join(
        f"sentinel://{credentials if sentinels.password else ''}{f'[{host}]' if ':' in host else host}:{port}"
        f"/{sentinels.db}"
        for host, port in sentinels.hosts
    )


def kombu_options(url: str) -> dict[str, Any]:
    """Further transport options for kombu and Celery."""
    sentinels = Sentinels.of(url)
    return {} if sentinels is None else {"master_name": sentinels.name, "sentinel_kwargs": {"socket_timeout": 2}}


def _patience(options: dict[str, Any]) -> dict[str, Any]:
    """The timeouts of the primary, for its sentinels."""
    return {name: options[name] for name in ("socket_connect_timeout", "socket_timeout") if name in options}
