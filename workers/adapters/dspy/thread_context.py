"""Threads that a program starts work for its execution: they inherit its context variables.

Python gives a new thread an empty context, so that DSPy's settings, the journal and the audit trail of the execution
would be missing there. While an execution's code runs, ``threading.Thread`` and ``ThreadPoolExecutor`` hand on the
context, as ``asyncio.to_thread`` does; outside, both are as they were.
"""

from __future__ import annotations

import contextvars
import threading
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from workers.adapters.dspy.run_loop import BlocksLoop

__all__ = ["call_in_thread", "hand_on_context", "is_handed_on"]

T = TypeVar("T")

#: Set while an execution's code runs.
is_handed_on: contextvars.ContextVar[bool] = contextvars.ContextVar("is_handed_on", default=False)


def hand_on_context() -> None:
    """Change both classes, once per process."""
    if threading.Thread.start is not _start:
        threading.Thread.start = _start  # type: ignore[method-assign]
        ThreadPoolExecutor.submit = _submit  # type: ignore[method-assign, assignment]


def call_in_thread(function: Callable[[], T], seconds: float | None = None) -> T:
    """The function's result, from a thread of its own with this context; raises what the function raises.

    Raises TimeoutError after ``seconds``; the thread goes on, but does not keep a stopping worker alive.
    """
    called: Future[T] = Future()
    context = contextvars.copy_context()

    def call() -> None:
        try:
            called.set_result(context.run(function))
        except BaseException as error:  # handed on
            called.set_exception(error)

    threading.Thread(target=call, name="program", daemon=True).start()
    try:
        return called.result(seconds)
    except TimeoutError:
        if called.done():
            raise
        raise TimeoutError(f"no result within {seconds:g} s") from None


_plain_start = threading.Thread.start
_plain_submit = ThreadPoolExecutor.submit


def _start(self: threading.Thread) -> None:
    # A pool's own threads serve many callers: each call brings its context.
    if is_handed_on.get() and not _is_of_pool(self):
        self.run = partial(_run_within, contextvars.copy_context(), self.run)  # type: ignore[method-assign]
    _plain_start(self)


def _run_within(context: contextvars.Context, run: Callable[[], None]) -> None:
    with suppress(BlocksLoop, CancelledError):  # what waits for this thread is started again, or over
        context.run(run)


def _submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
    if is_handed_on.get():
        return _plain_submit(self, contextvars.copy_context().run, fn, *args, **kwargs)
    return _plain_submit(self, fn, *args, **kwargs)


def _is_of_pool(thread: threading.Thread) -> bool:
    return getattr(getattr(thread, "_target", None), "__module__", "") == "concurrent.futures.thread"
