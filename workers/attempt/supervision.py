"""Supervision: end a coroutine, without waiting for ever when it ignores its cancellation.

``await task`` under a timeout waits for as long as the task ignores its cancellation. Here the wait ends: the task is
logged and left running, and its later writes find the attempt over.

A program may raise anything: ``SystemExit``, or a ``PanicException`` of a library in Rust, which is no ``Exception``
either. Whatever it raises is the failure of its own attempt: see :class:`RaisedByProgram`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Generic, TypeVar

__all__ = ["Ending", "RaisedByProgram", "Supervised", "ends_task", "is_interruption", "raised_by"]

T = TypeVar("T")

#: How long a cancelled coroutine may take to clean up: less than the reaper gives the worker (workers/process/pump.py).
ENDING_SECONDS = 3.0

log = logging.getLogger("dspex.workers")
#: Tasks that ignore their cancellation. They are kept here, because asyncio holds only weak references.
_strays: set[asyncio.Task[Any]] = set()


class RaisedByProgram(RuntimeError):
    """In place of an error of a program that would do harm on the loop, or that a coroutine cannot raise. That error is
    its cause."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"it raised {type(error).__name__}")


def raised_by(error: BaseException) -> BaseException:
    """What the program raised: ``error``, or what this stands for."""
    return error.__cause__ or error if isinstance(error, RaisedByProgram) else error


def ends_task(error: BaseException) -> bool:
    """Whether a coroutine caught an end of its own: its task is cancelled, or the coroutine is closed. A GeneratorExit
    that code raised itself comes from a deeper frame."""
    if isinstance(error, GeneratorExit):
        return error.__traceback__ is None or error.__traceback__.tb_next is None
    return isinstance(error, asyncio.CancelledError)


def is_interruption(error: BaseException) -> bool:
    """Whether the user interrupts this process, with Ctrl-C. Python raises that in the main thread, which runs no code
    of programs in a worker."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


class Ending(Enum):
    """Why a coroutine was ended."""

    DEADLINE = "its deadline passed"
    CANCELLED = "its cancel was requested"
    HANDED_BACK = "its worker stops"
    LEASE_LOST = "its worker lost the lease"
    PARKED = "it waits for something outside"


class Supervised(Generic[T]):
    """Runs ``work`` as a task of its own from now on; see :meth:`outcome`."""

    def __init__(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> None:
        self._task = asyncio.create_task(_contained(work), name=name)
        # The reason of the end: None when the coroutine ended by itself.
        self._reason: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._task.add_done_callback(lambda _: self._set_reason(None))

    def end(self, why: Ending) -> None:
        """Have the coroutine cancelled; only the first reason counts."""
        self._set_reason(why)

    @property
    def ending(self) -> bool:
        """Whether an end was asked for."""
        return self._reason.done() and not self._reason.cancelled() and self._reason.result() is not None

    async def outcome(self, timeout_seconds: float) -> T | Ending:
        """The coroutine's result, or why it was ended. Raises the coroutine's error."""
        timer = asyncio.get_running_loop().call_later(timeout_seconds, self._set_reason, Ending.DEADLINE)
        try:
            if self._reason.done():
                await asyncio.sleep(0)  # let the coroutine begin: one that never began would not be closed either
            why = await self._reason
            if why is None or self._task.done():
                return self._result()
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=ENDING_SECONDS)
            # It may have finished before the cancellation reached it: then its result counts.
            finished = self._task.done() and not self._task.cancelled() and self._task.exception() is None
            return self._task.result() if finished else why
        finally:
            timer.cancel()
            self._leave()

    def _set_reason(self, why: Ending | None) -> None:
        if not self._reason.done():
            self._reason.set_result(why)

    def _result(self) -> T:
        if self._task.cancelled():  # not by this class
            raise RuntimeError("the program cancelled its own task")
        return self._task.result()

    def _leave(self) -> None:
        if self._task.done():
            if not self._task.cancelled():
                self._task.exception()  # retrieved, so that asyncio does not log it as never retrieved
            return
        self._task.cancel()
        _strays.add(self._task)
        self._task.add_done_callback(_forget)
        log.error("%s did not end within %g s of being cancelled: it is left running", self._task.get_name(),
                  ENDING_SECONDS)  # fmt: skip


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``. Raises RaisedByProgram for what is no Exception, such as the SystemExit of a program that
    calls ``sys.exit()``, which would end the loop."""
    try:
        return await work
    except Exception:
        raise
    except BaseException as error:
        if ends_task(error):
            raise
        raise RaisedByProgram(error) from error


def _forget(task: asyncio.Task[Any]) -> None:
    _strays.discard(task)
    if not task.cancelled():
        task.exception()
