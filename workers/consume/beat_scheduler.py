"""Beat's scheduler: Celery's, but a task that cannot be sent is one line in the log."""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import beat
from kombu.exceptions import OperationalError

__all__ = ["Scheduler"]

log = logging.getLogger("dspex.beat")


class Scheduler(beat.Scheduler):  # type: ignore[misc]
    """Sends beat's tasks. What cannot be sent is due again after its interval."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a task. Where Redis is away or refuses it, log that in a line; Celery logs two tracebacks."""
        log.info("sending the task %s", entry.task)
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as error:
            cause = error.__context__
            if isinstance(cause, OperationalError | redis.RedisError):
                log.warning("the task %s is not sent: Redis: %s", entry.task, cause)
            else:
                log.exception("the task %s is not sent", entry.task)
