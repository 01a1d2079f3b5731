"""The asyncio loop of a worker process, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from workers.attempt.current import new_task

__all__ = ["LoopThread", "OnLoop"]

log = logging.getLogger("dspex.workers")

#: How long the loop's thread may take to end.
STOP_SECONDS = 10.0


class LoopThread:
    """A service. Its methods are for other threads."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.loop.set_task_factory(new_task)
        self._thread = threading.Thread(target=self._run, name="dspex-loop", daemon=True)
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_SECONDS)
        self.loop.close()

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        """Make this call on the loop, without waiting for it. A closed loop makes no more calls."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call, *args)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine on the loop and wait for its end. Raises what it raises."""
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def _run(self) -> None:
        """asyncio lets the SystemExit of a task end the loop. Here it ends the task alone.

        It may end the loop in the same turn as :meth:`stop`: then the loop has stopped and is not run again.
        """
        while not self._stopping:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                log.error("a task of a program raised %s: the loop continues", type(error).__name__)  # noqa: TRY400
            else:
                return


class OnLoop:
    """A service whose ``start`` and ``close`` run on the loop."""

    def __init__(
        self,
        loop: LoopThread,
        start: Callable[[], None] | None = None,
        close: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._loop = loop
        self._start = start
        self._close = close

    def start(self) -> None:
        if self._start is not None:
            self._loop.run(_call(self._start))

    def stop(self) -> None:
        if self._close is not None:
            self._loop.run(self._close())


async def _call(function: Callable[[], None]) -> None:
    function()
