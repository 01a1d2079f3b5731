"""kombu's Redis transport, proof against what is not a message, and without its emulation of acknowledgements.

Whoever can write to Redis can put anything on the queue. kombu lets what it cannot parse end the worker; here it is
logged, dropped, and changes nothing: the truth is in Postgres, and what a lost message stood for is dispatched again.

For the same reason a message that was received is kept in Redis no longer: kombu would store each a second time, and
delete it when it is acknowledged, in two transactions that cost the worker more than the rest of the message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, _transport_cache, redis, virtual

__all__ = ["GuardedRedisTransport", "register"]

log = logging.getLogger("dspex.workers")

#: Base64 around the body included, several times what the largest message takes.
MESSAGE_BYTES_MOST = 512 * 1024
#: What reading something that is no message may raise, in kombu and beneath it; RecursionError for deep nesting.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def _uncounted(reason: str) -> None:
    """Nobody counts: this process is no worker."""


#: Told of each message that is dropped; the pool sets it.
on_refused: Callable[[str], None] = _uncounted


class QoS(virtual.QoS):  # type: ignore[misc]
    """Counts what is in flight, in this process alone."""

    restore_at_shutdown = False

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop the message, or give it back; over a connection that is gone it is too late."""
        if not self.channel.closed:
            super().reject(delivery_tag, requeue=requeue)


class GuardedRedisChannel(redis.Channel):  # type: ignore[misc]
    ack_emulation = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.QoS = QoS

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous=asynchronous)
        client.set_response_callback("BRPOP", _bounded)
        return client

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except UNREADABLE as error:
            return _dropped(error)

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except UNREADABLE as error:
            return _dropped(error)


def _bounded(reply: Any, **_: Any) -> Any:
    """What BRPOP brought, if it is no larger than a message may be."""
    if reply and len(reply[1]) > MESSAGE_BYTES_MOST:
        raise ValueError(f"a message of {len(reply[1])} bytes, more than {MESSAGE_BYTES_MOST}")
    return tuple(reply) if reply else None


def _dropped(error: Exception) -> bool:
    # Only the kind: the text of the error may quote what came.
    log.error("refused a message (not_a_message): %s", type(error).__name__)
    on_refused("not_a_message")
    return True


class GuardedRedisTransport(redis.Transport):  # type: ignore[misc]
    Channel = GuardedRedisChannel


def _without_payload(record: logging.LogRecord) -> bool:
    """kombu tells of an event that is no JSON by printing all of it: count it, and say no more than that."""
    if str(record.msg).startswith("Cannot process event on channel"):
        record.msg, record.args, record.exc_info = (
            "refused a message (not_a_message): an event that is no JSON",
            (),
            None,
        )
        on_refused("not_a_message")
    return True


def register() -> None:
    """Make this the transport of redis:// and rediss:// URLs in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:GuardedRedisTransport"
        _transport_cache.pop(scheme, None)  # kombu remembers what an earlier connection found
    logging.getLogger("kombu.transport.redis").addFilter(_without_payload)
