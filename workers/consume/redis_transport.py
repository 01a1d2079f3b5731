"""kombu's Redis transport, guarded against data that is not a message, and without emulated acknowledgements.

A client of Redis can put anything on the queue. In kombu, data that it cannot parse ends the worker. Here such data is
logged and dropped, and nothing is lost: Postgres holds the executions, and the pump dispatches again what a lost
message carried.

When Redis refuses a command of the consumer (a full disk or memory, a missing right, a key of another type), kombu ends
the worker, too. Here the channel rests and asks again, and the refusal is the worker's trouble until it succeeds.

As Postgres holds the executions, a received message is not kept in Redis. kombu would store each a second time and
delete it when it is acknowledged, in two transactions that cost the worker more than the rest of the message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, _transport_cache, redis, virtual
from redis.exceptions import RedisError, ResponseError

from dspex.publish.key_types import wrong_types
from dspex.publish.redis_clients import DRIVER
from dspex.publish.redis_refusals import refusal_text
from workers.consume.turns import Turns
from workers.observe.redis_trouble import REDIS_TROUBLE

__all__ = ["GuardedRedisTransport", "register"]

log = logging.getLogger("dspex.workers")

#: Several times the size of the largest message, including the base64 of its body.
MESSAGE_BYTES_MOST = 512 * 1024
#: The pause after a command that Redis refused.
REST_SECONDS = 1.0
#: The parts of the consumer that Redis may refuse.
MESSAGES, CONTROL, CONNECTION = "messages", "remote control", "the connection of the consumer"
#: What kombu and the libraries beneath it raise for data that is not a message; RecursionError for deep nesting.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def _uncounted(reason: str) -> None:
    """Count nothing: this process is not a worker."""


#: Called for each message that is dropped; the pool sets it.
on_refused: Callable[[str], None] = _uncounted


class GuardedQoS(virtual.QoS):  # type: ignore[misc]
    """Counts the messages in flight, in this process alone."""

    restore_at_shutdown = False

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop the message, or put it back on the queue; do nothing once the connection is closed."""
        if not self.channel.closed:
            super().reject(delivery_tag, requeue=requeue)


class GuardedRedisChannel(redis.Channel):  # type: ignore[misc]
    ack_emulation = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self._rests_until = {MESSAGES: 0.0, CONTROL: 0.0}
        self._turns = Turns()
        super().__init__(*args, **options)
        self.QoS = GuardedQoS

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return {**super()._connparams(asynchronous=asynchronous), **DRIVER}

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous=asynchronous)
        client.set_response_callback("BRPOP", _bounded)
        return client

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for a message, as kombu does, but for the order of the keys."""
        queues = [] if self._rests(MESSAGES) else self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self._in_poll.send_command("BRPOP", *self._turns.order(keys), timeout or self.brpop_timeout or 0)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            found = super()._brpop_read(**options)
        except redis.Empty:
            self._turns.empty()
            REDIS_TROUBLE.clear(MESSAGES)
            raise
        except UNREADABLE as error:
            return _dropped(error)
        except ResponseError as error:
            self._leave_out()
            return self._rest(MESSAGES, error)
        if not self._turns.left_out:
            REDIS_TROUBLE.clear(MESSAGES)
        return found

    def _leave_out(self) -> None:
        """Read no key that has another type for now: the leader of the pump renames it."""
        try:
            with self.conn_or_acquire() as client:
                self._turns.left_out = frozenset(wrong_types(client))
        except (RedisError, OSError) as error:
            log.debug("cannot check the types of keys in Redis: %s", error)

    def _subscribe(self) -> None:
        if not self._rests(CONTROL):
            super()._subscribe()

    def _receive_one(self, c: Any) -> Any:
        try:
            found = super()._receive_one(c)
        except UNREADABLE as error:
            return _dropped(error)
        except ResponseError as error:
            self._in_listen = None
            return self._rest(CONTROL, error)
        REDIS_TROUBLE.clear(CONTROL)
        return found

    def _queue_bind(self, *args: Any) -> None:
        """Publish where a queue's messages go. Workers read their queues without it."""
        try:
            super()._queue_bind(*args)
        except ResponseError as error:
            log.warning("Redis refuses the bindings of a queue: %s", refusal_text(error))

    def maybe_refresh_binding_expiry(self) -> None:
        """The same for bindings that expire. kombu would log a traceback each second."""
        try:
            super().maybe_refresh_binding_expiry()
        except ResponseError as error:
            log.debug("Redis refuses the bindings of a queue: %s", refusal_text(error))

    def _rests(self, part: str) -> bool:
        return time.monotonic() < self._rests_until[part]

    def _rest(self, part: str, error: ResponseError) -> bool:
        self._rests_until[part] = time.monotonic() + REST_SECONDS
        REDIS_TROUBLE.note(part, error)
        return True


def _bounded(reply: Any, **_: Any) -> Any:
    """The reply of BRPOP, unless it is larger than a message may be."""
    if reply and len(reply[1]) > MESSAGE_BYTES_MOST:
        raise ValueError(f"a message of {len(reply[1])} bytes, more than {MESSAGE_BYTES_MOST}")
    return tuple(reply) if reply else None


def _dropped(error: Exception) -> bool:
    # Only the type: the text of the error may quote the data.
    log.error("refused a message (not_a_message): %s", type(error).__name__)
    on_refused("not_a_message")
    return True


class GuardedRedisTransport(redis.Transport):  # type: ignore[misc]
    Channel = GuardedRedisChannel


def _without_payload(record: logging.LogRecord) -> bool:
    """kombu logs the whole content of an event that is not JSON: count the event, and log that alone."""
    if str(record.msg).startswith("Cannot process event on channel"):
        record.msg, record.args, record.exc_info = (
            "refused a message (not_a_message): an event that is not JSON",
            (),
            None,
        )
        on_refused("not_a_message")
    return True


def register() -> None:
    """Make this the transport of redis:// and rediss:// URLs in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:GuardedRedisTransport"
        _transport_cache.pop(scheme, None)  # kombu caches the class that an earlier connection used
    logging.getLogger("kombu.transport.redis").addFilter(_without_payload)
