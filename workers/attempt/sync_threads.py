"""Threads for code that is not asynchronous: synchronous programs and tools.

They are separate from the loop's default executor, which DSPy uses: a hundred programs that block do not slow down
the others. A thread cannot be ended from outside, so a thread whose execution is over (its deadline passed, it was
cancelled) is a *stray*: it is counted and named in the log, and when all threads are strays the watchdog ends the
worker. The threads are daemons, so that a stray does not keep a stopping worker alive.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from workers.attempt.cpu_meter import METER
from workers.attempt.current import CURRENT
from workers.attempt.supervision import RaisedByProgram

__all__ = ["SyncThreads", "install", "run_apart", "run_sync"]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("dspex.workers")


class SyncThreads:
    """At most ``most`` threads, made as they are needed. Calls beyond that wait for one, in order."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0
        self._under_way: set[_Call] = set()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, called in a thread with this task's context variables. Raises the function's error.

        When the awaiting task is cancelled, a call that still waits is not made, and one under way becomes a stray.
        """
        call = _Call(lambda: function(*args, **kwargs), getattr(function, "__qualname__", type(function).__name__))
        self._add(call)
        try:
            outcome = await asyncio.wrap_future(call.future)
        except asyncio.CancelledError:
            self._leave(call)
            raise
        result: T = outcome.result()
        return result

    @property
    def busy(self) -> int:
        """The number of threads at work, including strays."""
        return len(self._under_way)

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a thread."""
        return self._calls.qsize()

    @property
    def strays(self) -> list[str]:
        """For each stray: the function, the execution, and how long ago it was called."""
        with self._lock:
            return [str(call) for call in self._under_way if call.stray]

    @property
    def exhausted(self) -> bool:
        """Whether every thread is a stray: no synchronous code can run in this worker any more."""
        with self._lock:
            return sum(call.stray for call in self._under_way) >= self.most

    def close(self) -> None:
        """Let idle threads end, and busy threads after their call."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _add(self, call: _Call) -> None:
        with self._lock:
            self._open += 1
            if self._open > self._threads < self.most:
                self._threads += 1
                threading.Thread(target=self._work, name=f"sync-{self._threads}", daemon=True).start()
        self._calls.put(call)

    def _leave(self, call: _Call) -> None:
        with self._lock:
            call.stray = not call.future.cancel() and not call.future.done()
        if call.stray:
            log.warning("%s does not end with its execution: its thread is lost until it does (%s of %s are)",
                        call, len(self.strays), self.most)  # fmt: skip

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._begin(call):
                call.make()
            with self._lock:
                self._under_way.discard(call)
                self._open -= 1
            if call.stray:
                log.warning("%s has ended: its thread is free again", call)
            del call  # so that the waiting thread does not keep its objects alive

    def _begin(self, call: _Call) -> bool:
        """Whether the call is still wanted; then it counts as under way."""
        with self._lock:
            wanted = call.future.set_running_or_notify_cancel()
            if wanted:
                call.began_at = time.monotonic()
                self._under_way.add(call)
        return wanted


class _Outcome:
    """What a call came to. As a future's own exception, asyncio would make another of a TimeoutError, and be cancelled
    by a CancelledError."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self._value = value
        self._error = error

    def result(self) -> Any:
        """For the coroutine that awaits the call. Raises RaisedByProgram for what a coroutine cannot raise, or must not
        on the loop: StopIteration, the SystemExit of ``sys.exit()``."""
        try:
            if isinstance(self._error, Exception) and not isinstance(self._error, StopIteration):
                raise self._error
            if self._error is not None:
                raise RaisedByProgram(self._error) from self._error
            return self._value
        finally:
            self._error = None  # the frames of its traceback refer to this object


class _Call:
    """One call: ``stray`` once its execution is over while it is under way."""

    def __init__(self, function: Callable[[], Any], name: str) -> None:
        self.future: Future[_Outcome] = Future()
        self.stray = False
        self.began_at = time.monotonic()
        meter = METER.get()
        self._function = function if meter is None else meter.call(function)
        self._name = name
        self._context = contextvars.copy_context()

    def make(self) -> None:
        try:
            outcome = _Outcome(self._context.run(self._function))
        except BaseException as error:  # a program may raise anything
            outcome = _Outcome(error=error)
        self.future.set_result(outcome)

    def __str__(self) -> str:
        whose = self._context.get(CURRENT)
        return f"{self._name}, called by {whose or 'an unknown execution'} {time.monotonic() - self.began_at:.1f} s ago"


#: This process's threads, set by the runtime.
_installed: SyncThreads | None = None


def install(threads: SyncThreads | None) -> None:
    """Make these the threads of :func:`run_sync` in this process."""
    global _installed  # noqa: PLW0603 - one per process, like the loop
    _installed = threads


async def run_sync(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call blocking code in a thread of the worker's :class:`SyncThreads`. Raises the code's error.

    Outside a worker (in an adapter's own tests) a thread of the loop's default executor is used.
    """
    if _installed is None:
        return await asyncio.to_thread(function, *args, **kwargs)
    return await _installed.run(function, *args, **kwargs)


async def run_apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call code that mostly waits for other executions, in a thread of its own: those may need the threads of
    :func:`run_sync`. Raises the code's error. When the awaiting task is cancelled the thread goes on."""
    call = _Call(lambda: function(*args, **kwargs), getattr(function, "__qualname__", type(function).__name__))
    call.future.set_running_or_notify_cancel()
    threading.Thread(target=call.make, name="apart", daemon=True).start()
    result: T = (await asyncio.wrap_future(call.future)).result()
    return result
