"""kombu's Sentinel transport, guarded as the transport of a single Redis is (redis_transport.py)."""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES, _transport_cache, redis

from workers.consume import redis_transport

__all__ = ["GuardedSentinelTransport", "register"]


class GuardedSentinelChannel(redis_transport.GuardedRedisChannel, redis.SentinelChannel):  # type: ignore[misc]
    """Finds the primary anew for each connection."""


class GuardedSentinelTransport(redis.SentinelTransport):  # type: ignore[misc]
    Channel = GuardedSentinelChannel


def register() -> None:
    """Make this the transport of sentinel:// URLs in this process."""
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:GuardedSentinelTransport"
    _transport_cache.pop("sentinel", None)
