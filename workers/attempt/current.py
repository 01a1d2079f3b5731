"""The execution that a task, or a thread of :mod:`workers.attempt.sync_threads`, works for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, NamedTuple
from uuid import UUID

from workers.attempt.cpu_meter import METER

__all__ = ["CURRENT", "Current", "new_task"]


class Current(NamedTuple):
    """An execution and its program's name. ``str()`` is its form in log lines."""

    execution_id: UUID
    program: str

    def __str__(self) -> str:
        return f"{self.execution_id} of {self.program}"


#: Set by the executor for everything that an attempt runs: its task, the tasks that this makes, its calls in threads.
CURRENT: ContextVar[Current | None] = ContextVar("dspex_current", default=None)


def new_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    """The loop's task factory: a task that an attempt makes is named for its execution, and metered with it.

    Then another thread can name the execution whose task blocks the loop (:mod:`workers.process.loop_watch`): it can
    read a task's name, but before Python 3.12 not its context.
    """
    own: Context | None = options.get("context")
    current, meter = (CURRENT.get(), METER.get()) if own is None else (own.get(CURRENT), own.get(METER))
    if current is not None and options.get("name") is None:
        options["name"] = str(current)
    if meter is not None and asyncio.iscoroutine(work):
        work = meter.steps(work)
    return asyncio.Task(work, loop=loop, **options)
