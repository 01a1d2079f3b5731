"""Celery's consumer, guarded against messages that DSPex did not send.

Celery logs the whole content of a message that it does not understand, and a message with unexpected headers ends the
worker. Here such a message is refused, counted and dropped. Nothing in Postgres changes. An error that Redis answers
with while Celery connects is waited out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker import consumer
from kombu.exceptions import ContentDisallowed, KombuError
from redis.exceptions import ResponseError

from dspex.publish.broker import TASK
from workers.consume.redis_transport import CONNECTION, REST_SECONDS, UNREADABLE
from workers.observe.redis_trouble import REDIS_TROUBLE

__all__ = ["Consumer"]

log = logging.getLogger("dspex.workers")

#: Headers that DSPex never sends: with them, the worker would hold the message in memory until that time.
_LATER = ("eta", "expires")


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """``worker_consumer = "workers.consume.consumer:Consumer"``."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **options)

        def handle_ours(message: Any) -> None:
            try:
                headers = message.headers
                if headers.get("task") == TASK and any(headers.get(name) for name in _LATER):
                    self._refuse(message, "malformed")
                    return
                handle(message)
            except (*UNREADABLE, KombuError) as error:
                self._refuse(message, "malformed", error)

        return handle_ours

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        super().on_connection_error_before_connected(exc)
        _rest(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        _rest(exc)

    def on_ready(self) -> None:
        REDIS_TROUBLE.clear(CONNECTION)
        super().on_ready()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._refuse(message, "content_type" if isinstance(exc, ContentDisallowed) else "body", exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._refuse(message, "malformed")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._refuse(message, "task", exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._refuse(message, "content_type" if isinstance(exc, ContentDisallowed) else "malformed", exc)

    def _refuse(self, message: Any, reason: str, error: Exception | None = None) -> None:
        """Refuse the message. Only the type of the error is logged: its text may quote the message."""
        log.error("refused a message (%s)%s", reason, f": {type(error).__name__}" if error else "")
        self.pool.refuse(reason)
        if not message.acknowledged:
            message.reject_log_error(log, self.connection_errors)


def _rest(error: Exception) -> None:
    """Wait before Celery connects again: Redis, which answers, would refuse the same command at once."""
    if isinstance(error, ResponseError):
        REDIS_TROUBLE.note(CONNECTION, error)
        time.sleep(REST_SECONDS)
