"""The CPU time of one attempt, although hundreds share one loop and one thread.

Every step of the attempt's coroutines, of the tasks they start, and of its calls in threads is timed with the thread's
own CPU clock. Only attempts that ask for it are metered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["METER", "CpuMeter"]

T = TypeVar("T")


class CpuMeter:
    """Adds up ``cpu_seconds``. ``check`` is called before each step; an error that it returns is raised there."""

    def __init__(self, check: Callable[[], BaseException | None]) -> None:
        self.cpu_seconds = 0.0
        self.check = check

    def steps(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """The coroutine, metered."""
        return _Steps(self, work)

    def call(self, function: Callable[[], T]) -> Callable[[], T]:
        """The function, metered in the thread that calls it."""

        def metered() -> T:
            began = time.thread_time()
            try:
                return function()
            finally:
                self.cpu_seconds += time.thread_time() - began

        return metered


class _Steps(Coroutine[Any, Any, T], Iterator[Any]):
    """A coroutine that is its own iterator, so that it can be awaited and be run by a task."""

    def __init__(self, meter: CpuMeter, work: Coroutine[Any, Any, T]) -> None:
        self._meter = meter
        self._work = work

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # type: ignore[return-value] # it has a generator's methods

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any, /) -> Any:
        if error := self._meter.check():
            return self.throw(error)
        return self._step(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        self._work.close()

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        began = time.thread_time()
        try:
            return step(*args)
        finally:
            self._meter.cpu_seconds += time.thread_time() - began


#: The meter of the attempt that runs now, if it is metered.
METER: ContextVar[CpuMeter | None] = ContextVar("dspex_meter", default=None)
