"""kombu's Redis transport, proof against what is not a message.

Whoever can write to Redis can put anything on the queue. kombu lets what it cannot parse end the worker; here it is
logged, dropped, and changes nothing: the truth is in Postgres, and what a lost message stood for is dispatched again.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, _transport_cache, redis

__all__ = ["Transport", "register"]

log = logging.getLogger("dspex.workers")


class QoS(redis.QoS):  # type: ignore[misc]
    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give back what was not acknowledged, if Redis can be reached: closing a lost connection must not fail.

        kombu 5.7 raises here when the connection was refused, and that ends the worker.
        """
        try:
            super().restore_unacked_once(stderr)
        except (OSError, AttributeError, *self.channel.connection_errors) as error:
            log.debug("messages could not be given back: %s", error)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; over a connection that is gone it is too late, and the message was given back.

        kombu 5.7 raises here as well when an execution ends after its message's connection did.
        """
        if not self.channel.closed:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not self.channel.closed:
            super().reject(delivery_tag, requeue=requeue)


class Channel(redis.Channel):  # type: ignore[misc]
    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Only the kind: the text of the error may quote what came.
            log.error("dropped what is not a message from the queue: %s", type(error).__name__)  # noqa: TRY400
            return True


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel


def register() -> None:
    """Make this the transport of redis:// and rediss:// URLs in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
        _transport_cache.pop(scheme, None)  # kombu remembers what an earlier connection found
