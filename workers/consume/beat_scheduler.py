"""Beat's scheduler: Celery's, but a task that cannot be sent is one line in the log, and a signal always ends beat."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

import redis
from celery import beat
from celery.signals import beat_init
from kombu.exceptions import OperationalError

__all__ = ["Scheduler"]

log = logging.getLogger("dspex.beat")


class Scheduler(beat.Scheduler):  # type: ignore[misc]
    """Sends beat's tasks. What cannot be sent is due again after its interval."""

    #: A signal asked beat to end.
    is_stopping = False

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a task. Where Redis is away or refuses it, log that in a line; Celery logs two tracebacks."""
        log.info("sending the task %s", entry.task)
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as error:
            cause = error.__context__
            if self.is_stopping:
                log.info("the task %s may not be sent: beat stops", entry.task)
            elif isinstance(cause, OperationalError | redis.RedisError):
                log.warning("the task %s is not sent: Redis: %s", entry.task, cause)
            else:
                log.exception("the task %s is not sent", entry.task)
        if self.is_stopping:
            raise SystemExit


def _note_signals(sender: beat.Service, **_: Any) -> None:
    """Have the scheduler know that a signal came.

    Celery's handler closes the connection and raises SystemExit, which becomes an error of Redis where a task is being
    sent: beat would go on.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        assert callable(handler)

        def stop(number: int, frame: FrameType | None, handler: Any = handler) -> None:
            sender.scheduler.is_stopping = True
            handler(number, frame)

        signal.signal(number, stop)


beat_init.connect(_note_signals)
